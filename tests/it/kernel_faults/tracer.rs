//! A process of the test's own, and strace, which makes its system calls fail.

use super::*;

/// The process that is child, and the server in this one that it talks to.
pub(super) struct Traced {
    pub(super) process: Child,
    orders: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
    pub(super) server: Server,
}

impl Traced {
    /// Runs this test once more, in a process of its own.
    pub(super) fn start(test: &str) -> Self {
        let server = Server::echo();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(PEER, server.address().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let told = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            process,
            orders,
            told,
            server,
        }
    }

    /// Has it do something, and waits for what it says then.
    pub(super) fn order(&mut self, what: &str) -> String {
        writeln!(self.orders, "{what}").unwrap();
        let done = format!("{what}: ");
        let mut said = Vec::new();
        for line in self.told.by_ref() {
            let line = line.unwrap();
            if let Some((_, answer)) = line.split_once(&done) {
                return answer.to_owned();
            }
            said.push(line);
        }
        panic!("the child has ended before {what:?}: {said:#?}");
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What strace did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) injected: usize,
    /// Calls that had begun when strace let go. It may not have given them their result.
    pub(super) cut: usize,
}

/// Strace, attached to a process.
pub(super) struct Tracer {
    strace: Child,
    is_sudo: bool,
    log: PathBuf,
}

impl Tracer {
    pub(super) fn attach(process: u32, call: &str, error: &str, when: &str) -> io::Result<Self> {
        let plain = Self::attach_as(&["strace"], process, call, error, when);
        // Where only root may attach to a process that is not its own child.
        plain.or_else(|error_of_plain| {
            let sudo = ["sudo", "-n", "strace"];
            Self::attach_as(&sudo, process, call, error, when).map_err(|_| error_of_plain)
        })
    }

    fn attach_as(
        program: &[&str],
        process: u32,
        call: &str,
        error: &str,
        when: &str,
    ) -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, SeqCst);
        let name = format!("jackpot-strace-{}-{count}", std::process::id());
        let log = std::env::temp_dir().join(name);
        let mut strace = Command::new(program[0])
            .args(&program[1..])
            .args(["-f", "-p", &process.to_string()])
            .args(["-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:error={error}:when={when}")])
            .arg("-o")
            .arg(&log)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut told = BufReader::new(strace.stderr.take().unwrap()).lines();
        let tracer = Self {
            strace,
            is_sudo: program[0] == "sudo",
            log,
        };
        let mut said = Vec::new();
        for line in told.by_ref() {
            let line = line?;
            if line.contains(" attached") {
                // It tells of each thread that comes, and must not wait for a reader.
                thread::spawn(move || told.for_each(drop));
                return Ok(tracer);
            }
            said.push(line);
        }
        Err(io::Error::other(said.join("; ")))
    }

    pub(super) fn count(&self) -> Count {
        // Strace makes the file once something has happened.
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
        Count {
            injected: lines("(INJECTED)"),
            cut: lines("<detached ...>"),
        }
    }

    /// Lets the process go.
    pub(super) fn detach(mut self) -> Count {
        self.stop();
        self.count()
    }

    fn stop(&mut self) {
        let pid = self.strace.id().to_string();
        let kill: &[&str] = if self.is_sudo {
            &["sudo", "-n", "kill"]
        } else {
            &["kill"]
        };
        let killed = Command::new(kill[0]).args(&kill[1..]).arg(pid).status();
        if killed.is_ok_and(|status| status.success()) {
            let _ = self.strace.wait();
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            self.stop();
        }
        let _ = fs::remove_file(&self.log);
    }
}

/// Which calls of each thread fail, as strace has it, which counts them for each by itself.
pub(super) fn whens(call: &str, error: &str) -> Vec<String> {
    let seed = RandomState::new().hash_one(error);
    let (first, step) = (1 + seed % 5, 2 + seed / 5 % 4);
    let mut whens = vec!["1".to_owned()];
    // A thread that connects ends after its first connect most of the time.
    if !["connect", "socket"].contains(&call) {
        whens.extend(["2+3".to_owned(), format!("{first}+{step}")]);
    }
    // What is always interrupted is repeated for ever, as it should be.
    if error != "EINTR" {
        whens.push("1+".to_owned());
    }
    whens
}
