//! The shipped units, as they are: checked by systemd's own tools, then installed into a root of our
//! own that a real systemd boots in a container (systemd-nspawn), where the daemon is started by its
//! first client, used, killed and stopped. Skipped aloud where that cannot be done.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const DRIVE: &str = include_str!("systemd-drive.sh");

const DRIVE_SERVICE: &str = "\
[Service]
Type=oneshot
ExecStart=/usr/bin/drive
ExecStopPost=/usr/bin/systemctl poweroff --force
StandardOutput=file:/var/drive.log
StandardError=file:/var/drive.log
";

const TEST_TARGET: &str = "\
[Unit]
Requires=basic.target
Wants=drive.service
After=basic.target
AllowIsolate=yes
";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// Where cargo put the programs: beside the folder of this test.
fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).expect("target/debug/deps/test").to_owned()
}

/// Past libtest, which would keep the output of a passing test to itself.
fn skip(test: &str, why: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {test}: {why}\n").as_bytes()).unwrap();
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[track_caller]
fn assert_clean(output: &Output) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Puts our files where a package would, below `usr`.
fn install(usr: &Path) {
    let units = usr.join("lib/systemd/system");
    for folder in [&usr.join("bin"), &units, &usr.join("lib/sysusers.d")] {
        fs::create_dir_all(folder).unwrap();
    }
    for program in ["ipcd", "ipcctl"] {
        let built = programs().join(program);
        fs::copy(&built, usr.join("bin").join(program))
            .unwrap_or_else(|e| panic!("{}: {e}: cargo build --workspace first", built.display()));
    }
    let shipped = repository().join("systemd");
    for unit in ["ipcd.service", "ipcd.socket"] {
        fs::copy(shipped.join(unit), units.join(unit)).unwrap();
    }
    fs::copy(shipped.join("ipcd.sysusers"), usr.join("lib/sysusers.d/ipcd.conf")).unwrap();
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    if !has_program("systemd-analyze") {
        return skip("systemd_finds_no_fault_in_the_units", "no systemd-analyze here");
    }
    let root = tempfile::tempdir().unwrap();
    install(&root.path().join("usr"));
    // The targets that the units hang on are systemd's own.
    for unit in fs::read_dir("/usr/lib/systemd/system").unwrap() {
        let unit = unit.unwrap();
        let copy = root.path().join("usr/lib/systemd/system").join(unit.file_name());
        if unit.path().is_file() && !copy.exists() {
            fs::copy(unit.path(), copy).unwrap();
        }
    }
    let units = ["ipcd.service", "ipcd.socket"];
    let verify = |root: &Path| {
        let mut analyze = Command::new("systemd-analyze");
        run(analyze
            .args(["verify", "--recursive-errors=one", "--man=no"])
            .arg(format!("--root={}", root.display()))
            .args(units))
    };
    assert_clean(&verify(root.path()));

    // And it would find one: systemd only warns of an unknown key unless told otherwise.
    let service = root.path().join("usr/lib/systemd/system/ipcd.service");
    let broken =
        fs::read_to_string(&service).unwrap().replace("NoNewPrivileges=", "NoNewPrivilege=");
    fs::write(&service, broken).unwrap();
    assert!(!verify(root.path()).status.success(), "a misspelt key passes");
}

#[test]
fn the_service_is_exposed_by_at_most_1_0_of_10() {
    if !has_program("systemd-analyze") {
        return skip("the_service_is_exposed_by_at_most_1_0_of_10", "no systemd-analyze here");
    }
    let unit = repository().join("systemd/ipcd.service");
    let mut analyze = Command::new("systemd-analyze");
    // The threshold counts tenths.
    assert_clean(&run(analyze.args(["security", "--offline=yes", "--threshold=10"]).arg(unit)));
}

/// A root for the container: the host's `/usr`, read-only, with our files laid over it, and an `/etc`
/// and `/var` of its own.
fn make_root(root: &Path, usr: &Path) {
    for folder in
        ["usr", "etc/systemd/system", "var", "run", "tmp", "proc", "sys", "dev", "root", "opt"]
    {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for folder in ["bin", "sbin", "lib", "lib64"] {
        symlink(Path::new("usr").join(folder), root.join(folder)).unwrap();
    }
    for file in ["passwd", "group", "nsswitch.conf"] {
        fs::copy(Path::new("/etc").join(file), root.join("etc").join(file)).unwrap();
    }
    fs::write(root.join("etc/os-release"), "ID=test\nPRETTY_NAME=\"test root\"\n").unwrap();
    fs::write(root.join("etc/machine-id"), "").unwrap();
    fs::write(root.join("etc/systemd/system/drive.service"), DRIVE_SERVICE).unwrap();
    fs::write(root.join("etc/systemd/system/test.target"), TEST_TARGET).unwrap();
    install(usr);
    let drive = usr.join("bin/drive");
    fs::write(&drive, DRIVE).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(drive, mode).unwrap();
}

/// What the drive script noted.
struct Facts {
    log: String,
    values: HashMap<String, String>,
}

impl Facts {
    fn new(log: String) -> Self {
        let lines = log.lines().filter_map(|line| line.split_once('='));
        let values = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { log, values }
    }

    #[track_caller]
    fn value(&self, name: &str) -> &str {
        self.values.get(name).unwrap_or_else(|| panic!("{name} was not noted:\n{}", self.log))
    }

    #[track_caller]
    fn are(&self, expected: &[(&str, &str)]) {
        for (name, value) in expected {
            assert_eq!(self.value(name), *value, "{name}\n{}", self.log);
        }
    }

    #[track_caller]
    fn contain(&self, name: &str, part: &str) {
        let value = self.value(name);
        assert!(value.contains(part), "{name} lacks {part:?}: {value}\n{}", self.log);
    }
}

fn why_no_container() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        Some("only root can boot a container")
    } else if !has_program("systemd-nspawn") {
        Some("no systemd-nspawn here (package systemd-container)")
    } else {
        None
    }
}

#[test]
fn the_daemon_lives_under_a_real_systemd() {
    if let Some(why) = why_no_container() {
        return skip("the_daemon_lives_under_a_real_systemd", why);
    }
    let home = tempfile::tempdir().unwrap();
    // Others must be able to pass: the daemon and its clients run as other uids in there.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(home.path(), open).unwrap();
    let (root, usr) = (home.path().join("root"), home.path().join("usr"));
    make_root(&root, &usr);
    let boot = run(Command::new("timeout")
        .args(["--kill-after=5", "120", "systemd-nspawn", "--register=no", "--keep-unit"])
        .arg(format!("--machine=ipcd-test-{}", std::process::id()))
        .arg(format!("--directory={}", root.display()))
        .arg(format!("--overlay-ro=/usr:{}:/usr", usr.display()))
        .args(["--boot", "--", "systemd.unit=test.target"])
        .stdin(std::process::Stdio::null()));
    let log = fs::read_to_string(root.join("var/drive.log")).unwrap_or_else(|error| {
        panic!("nothing was noted: {error}\n{}\n{}", text(&boot.stdout), text(&boot.stderr))
    });
    let facts = Facts::new(log);
    facts.are(&[("end", "reached")]);
    started_by_its_first_client_and_without_privilege(&facts);
    moves_messages_between_users(&facts);
    comes_back_after_a_crash(&facts);
    comes_back_when_it_hangs_and_when_it_is_upgraded(&facts);
    traffic_has_noticed_nothing(&facts);
    stops_in_order_and_comes_back_on_demand(&facts);
}

#[track_caller]
fn started_by_its_first_client_and_without_privilege(facts: &Facts) {
    facts.are(&[
        ("socket.start.code", "0"),
        ("socket.mode", "666"),
        ("service.before", "inactive"),
        ("create.code", "0"),
        ("service.after", "active"),
        ("service.type", "notify"),
        ("process.Uid", facts.value("uid")),
        ("process.NoNewPrivs", "1"),
        ("process.Seccomp", "2"),
        ("process.CapEff", "0000000000000000"),
        ("process.CapBnd", "0000000000000000"),
        ("process.executable", "/usr/bin/ipcd"),
    ]);
    assert_ne!(facts.value("uid"), "0");
    facts.contain("security", "SAFE");
    has_the_descriptors_it_asks_for(facts);
}

#[track_caller]
fn has_the_descriptors_it_asks_for(facts: &Facts) {
    let of =
        |pid: &str| facts.value(&format!("files.{pid}")).split_once(' ').expect("soft and hard");
    let (soft, hard) = of(facts.value("process.pid"));
    let systemd_hard: u64 = of("1").1.parse().expect("a number");
    assert_eq!(soft, hard);
    assert_eq!(soft, 524_288.min(systemd_hard).to_string(), "\n{}", facts.log);
}

#[track_caller]
fn moves_messages_between_users(facts: &Facts) {
    facts.contain("list.output", "orders");
    facts.are(&[
        ("list.code", "0"),
        ("send.code", "0"),
        ("receive.code", "0"),
        ("nobody.send.code", "0"),
        ("nobody.receive.code", "4"),
        ("receive.json.code", "0"),
    ]);
    facts.contain("receive.output", "first message");
    let message: serde_json::Value = serde_json::from_str(facts.value("receive.json.output"))
        .unwrap_or_else(|error| panic!("{error}\n{}", facts.log));
    let uid: u64 = facts.value("nobody.uid").parse().unwrap();
    assert_eq!(message["sender"]["uid"], uid, "{message}");
}

#[track_caller]
fn comes_back_after_a_crash(facts: &Facts) {
    facts.are(&[("crash.code", "0"), ("crash.restarts", "1"), ("crash.list.code", "0")]);
    facts.contain("crash.list.output", "orders");
    facts.are(&[("crash.traffic", "1")]);
}

#[track_caller]
fn comes_back_when_it_hangs_and_when_it_is_upgraded(facts: &Facts) {
    facts.are(&[
        ("hang.code", "0"),
        ("hang.traffic", "1"),
        ("hang.replaced", "1"),
        ("hang.list.code", "0"),
        ("hang.after", "1"),
        ("upgrade.code", "0"),
        ("upgrade.replaced", "1"),
        ("upgrade.list.code", "0"),
        ("upgrade.traffic", "1"),
    ]);
    facts.contain("hang.list.output", "orders");
    facts.contain("upgrade.output", "upgraded");
    facts.contain("upgrade.list.output", "orders");
    // An orderly restart ends everything, and the store has nothing of it left: the state's two files, and whose request is in hand, are new.
    facts.are(&[("restart.code", "0"), ("restart.list.code", "0")]);
    assert!(!facts.value("restart.list.output").contains("orders"), "{}", facts.log);
    facts.are(&[("restart.kept", "3")]);
}

#[track_caller]
fn traffic_has_noticed_nothing(facts: &Facts) {
    facts.are(&[
        ("traffic.begun", "1"),
        ("traffic.sender", "0"),
        ("traffic.receiver", "0"),
        ("traffic.same", "same"),
    ]);
    let sent: u64 = facts.value("traffic.sent").parse().expect("a number");
    assert!(sent > 0, "{}", facts.log);
}

#[track_caller]
fn stops_in_order_and_comes_back_on_demand(facts: &Facts) {
    facts.are(&[
        ("stop.code", "0"),
        ("stop.main_code", "1"), // CLD_EXITED: it ended by itself, no signal killed it
        ("stop.status", "0"),
        ("stop.result", "success"),
        ("stop.state", "inactive"),
        ("again.list.code", "0"),
        ("again.service", "active"),
        ("all.stop.code", "0"),
        ("all.list.code", "3"),
        ("all.socket", ""),
    ]);
    let journal = facts.log.lines().filter(|line| line.starts_with("journal: "));
    let farewells = journal.filter(|line| line.contains("ipcd::startup: stopped"));
    assert_eq!(farewells.count(), 3, "the log tells of no orderly stop\n{}", facts.log);
}
