//! `call`: a request to whoever receives from a mailbox, and the reply.

use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Instant;

use libipc::Client;

use crate::cli::Call;
use crate::exit_code::{ExitCode, Failure, Outcome};
use crate::json;
use crate::output::Output;

/// Calls, and prints the reply.
pub(crate) fn run(client: &Client, args: &Call, output: &mut Output) -> Outcome {
    let what = || format!("cannot call {}", args.name);
    let mut request = Vec::new();
    match &args.text {
        Some(text) => request.extend_from_slice(text.as_bytes()),
        None => {
            io::stdin().read_to_end(&mut request).map_err(|error| Failure::io(what(), &error))?;
        }
    }
    let mut sender =
        client.sender(args.name.as_str()).map_err(|error| Failure::request(what(), &error))?;
    let called = match args.timeout {
        Some(timeout) => sender.call_deadline(&request, Instant::now() + timeout),
        None => sender.call(&request),
    };
    let reply = called.map_err(|error| Failure::call(what(), &error))?;
    if output.json {
        let name = args.name.as_str();
        output.object(&json::Reply::new(name, reply.server(), reply.bytes()))?;
    } else {
        output.message(reply.bytes(), true)?;
    }
    Ok(ExitCode::Done)
}
