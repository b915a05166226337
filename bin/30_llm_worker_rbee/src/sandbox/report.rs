//! What the log says of each step: what holds, and what does not and why.

use worker_contract::DeviceKind;

use super::{Needs, Outcome};

/// The first version of Landlock's interface that knows TCP ports.
const LANDLOCK_WITH_TCP: u32 = 4;

pub(super) fn at_start(outcome: &Outcome, needs: &Needs) -> String {
    let files = match &outcome.landlock {
        Ok(abi) => {
            let writes = match needs.device {
                DeviceKind::Cpu => "writes only to devices",
                DeviceKind::Gpu => "writes only to devices and shader caches",
            };
            let connects = match needs.queen {
                Some(queen) => format!("connects only to TCP port {}", queen.port),
                None => "makes no TCP connection".to_owned(),
            };
            let network = if *abi >= LANDLOCK_WITH_TCP {
                format!("listens on no other TCP port and {connects}")
            } else {
                no_tcp(*abi)
            };
            format!(
                "this process reads only the model and the system's folders, {writes}, runs no \
                 program, {network} (Landlock {abi})"
            )
        }
        Err(reason) => format!("files and network are not restricted: {reason}"),
    };
    let calls = match &outcome.seccomp {
        Ok(()) => "system calls for administrators and debuggers are refused (seccomp)".to_owned(),
        Err(reason) => format!("system calls are not restricted: {reason}"),
    };
    format!("{files}; {calls}")
}

pub(super) fn after_load(outcome: &Outcome, needs: &Needs) -> String {
    let files = match &outcome.landlock {
        Ok(abi) => {
            let opens = match needs.device {
                DeviceKind::Cpu => "no file",
                DeviceKind::Gpu => "only devices, libraries and shader caches",
            };
            let network = if *abi >= LANDLOCK_WITH_TCP {
                "makes no TCP connection".to_owned()
            } else {
                no_tcp(*abi)
            };
            format!("the engine's thread opens {opens} from here on and {network}")
        }
        Err(reason) => format!("the engine's thread keeps its files: {reason}"),
    };
    let calls = match (&outcome.seccomp, needs.queen) {
        (Ok(()), None) => "no thread runs a program or opens a socket".to_owned(),
        (Ok(()), Some(queen)) if queen.is_name => {
            "no thread runs a program, and sockets are for the queen and name resolution".to_owned()
        }
        (Ok(()), Some(_)) => "no thread runs a program, and new sockets are TCP only".to_owned(),
        (Err(reason), _) => format!("system calls are not restricted further: {reason}"),
    };
    format!("{files}; {calls}")
}

fn no_tcp(abi: u32) -> String {
    format!("TCP is not restricted (the kernel has Landlock {abi}, and {LANDLOCK_WITH_TCP} can)")
}

#[cfg(test)]
mod tests {
    use super::super::QueenAddress;
    use super::*;

    #[test]
    fn the_log_claims_only_what_the_kernel_enforces() {
        let no_landlock = || Err("this kernel has no Landlock".to_owned());
        let no_seccomp = || Err("not permitted".to_owned());
        let rows = [
            (Ok(7), Ok(()), &["makes no TCP", "runs no program", "seccomp"][..], "not restricted"),
            (Ok(3), Ok(()), &["TCP is not restricted", "Landlock 3"], "connects only"),
            (no_landlock(), Ok(()), &["not restricted: this kernel has no"], "reads only"),
            (Ok(7), no_seccomp(), &["system calls are not restricted: not per"], "are refused"),
            (no_landlock(), no_seccomp(), &["has no Landlock", "not permitted"], "reads only"),
        ];
        let needs = |queen| Needs {
            files: Vec::new(),
            engine: None,
            listen: 0,
            queen,
            device: DeviceKind::Cpu,
        };
        for (landlock, seccomp, wanted, absent) in rows {
            let outcome = Outcome { landlock, seccomp };
            let text = at_start(&outcome, &needs(None));
            for part in wanted {
                assert!(text.contains(part), "{part:?} is not in: {text}");
            }
            assert!(!text.contains(absent), "{absent:?} is in: {text}");
            let text = after_load(&outcome, &needs(None));
            assert_eq!(text.contains("opens no file"), outcome.landlock.is_ok(), "{text}");
            assert_eq!(text.contains("no thread runs"), outcome.seccomp.is_ok(), "{text}");
        }
        let queen = Some(QueenAddress { port: 8500, is_name: false });
        let outcome = Outcome { landlock: Ok(7), seccomp: Ok(()) };
        assert!(at_start(&outcome, &needs(queen)).contains("only to TCP port 8500"));
        assert!(after_load(&outcome, &needs(queen)).contains("new sockets are TCP only"));
    }
}
