//! The machine on which was measured: what the reader of figures wants to know of it.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The facts, as far as the machine tells them.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's model.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The kernel.
    pub kernel: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The compiler on the path.
    pub compiler: String,
    /// When, in UTC.
    pub date: String,
    /// Processes that wanted to run in the last minute.
    pub load_before: f64,
    /// What the kernel does against the processor's vulnerabilities.
    pub mitigations: Vec<String>,
}

impl Machine {
    /// Looks at the machine.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            memory_bytes: field(&read("/proc/meminfo"), "MemTotal")
                .split(' ')
                .next()
                .and_then(|text| text.parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
            compiler: said_by("rustc", &["--version"]),
            date: said_by("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]),
            load_before: load_average(),
            mitigations: mitigations(),
        }
    }

    /// A note if others keep the machine's cores busy: then no figure means much.
    #[must_use]
    pub fn busy(&self) -> Option<String> {
        (self.load_before > 0.5 * self.cores as f64).then(|| {
            let (load, cores) = (self.load_before, self.cores);
            format!("This machine was busy before (load {load} on {cores} cores): figures suffer.")
        })
    }
}

fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// The value of the first line `name : value` in a file of such lines.
fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value);
    value.trim().to_owned()
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Those that cost something: lines that name a mitigation.
fn mitigations() -> Vec<String> {
    let Ok(folder) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return Vec::new();
    };
    let mut found: Vec<_> = folder
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let what = text.trim().strip_prefix("Mitigation: ")?.to_owned();
            Some(format!("{}: {what}", entry.file_name().to_string_lossy()))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_what_stands_behind_the_colon() {
        assert_eq!(field("a : b\nmodel name\t: X: 1\n", "model name"), "X: 1");
        assert_eq!(field("", "model name"), "unknown");
    }
}
