//! Landlock for files and TCP, seccomp for system calls.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::rights::Rights;
use super::{Outcome, QueenAddress};

/// The newest version of Landlock's interface whose rights are taken away. A right that a kernel does
/// not know stays.
const LANDLOCK: ABI = ABI::V6;

/// For administrators, debuggers and containers; some have been ways into kernels. No worker, and no
/// driver that it uses, makes them.
const NEVER: [i64; 39] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// What running another program takes.
const PROGRAMS: [i64; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// The kinds of sockets that are refused beside TCP.
const NO_STREAM: [i32; 2] = [libc::SOCK_DGRAM, libc::SOCK_RAW];

/// The bits of a socket's type that tell its kind; the others are flags.
const SOCKET_KIND: u64 = 0xf;

pub(super) fn at_start(rights: &Rights) -> Outcome {
    let landlock = restrict(rights);
    let calls = NEVER.map(|call| (call, Vec::new())).into();
    let seccomp = filter(calls).and_then(|filter| seccompiler::apply_filter(&filter));
    Outcome { landlock, seccomp: seccomp.map_err(|error| error.to_string()) }
}

pub(super) fn after_load(rights: &Rights, queen: Option<QueenAddress>) -> Outcome {
    let landlock = restrict(rights);
    let seccomp = calls_after_load(queen)
        .map_err(seccompiler::Error::from)
        .and_then(filter)
        .and_then(|filter| seccompiler::apply_filter_all_threads(&filter));
    Outcome { landlock, seccomp: seccomp.map_err(|error| error.to_string()) }
}

/// Takes all rights but these from the calling thread and those that it starts. Gives the version of
/// Landlock's interface, or why nothing was taken.
fn restrict(rights: &Rights) -> Result<u32, String> {
    let status = landlocked(rights).map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("Landlock is not enabled in this kernel (boot it with landlock in lsm=)".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => {
            Err("this kernel has no Landlock (Linux 5.13 and later have)".to_owned())
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as u32),
        (_, _) => Err("the kernel does not say whether it enforces Landlock".to_owned()),
    }
}

fn landlocked(rights: &Rights) -> Result<landlock::RestrictionStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::IoctlDev
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile;
    let ports = |ports: &[u16], access: AccessNet| {
        let access = BitFlags::from(access);
        let rules = ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, access)));
        rules.collect::<Vec<_>>()
    };
    Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(&rights.read, read))?
        .add_rules(path_beneath_rules(&rights.write, write))?
        .add_rules(ports(&rights.listen, AccessNet::BindTcp))?
        .add_rules(ports(&rights.connect, AccessNet::ConnectTcp))?
        .restrict_self()
}

/// System calls, each with the conditions under which it is refused; without any, always.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

fn calls_after_load(queen: Option<QueenAddress>) -> Result<Calls, BackendError> {
    let mut calls: Calls = PROGRAMS.map(|call| (call, Vec::new())).into();
    let families = |families: &[i32]| {
        let others = families.iter().map(|family| argument(0, SeccompCmpOp::Ne, *family));
        SeccompRule::new(others.collect::<Result<_, _>>()?)
    };
    let sockets = match queen {
        None => Vec::new(),
        // The C library asks the kernel for its addresses, and name services by their own sockets.
        Some(queen) if queen.is_name => {
            vec![families(&[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK])?]
        }
        Some(_) => {
            let mut rules = vec![families(&[libc::AF_INET, libc::AF_INET6])?];
            for kind in NO_STREAM {
                let is_kind = argument(1, SeccompCmpOp::MaskedEq(SOCKET_KIND), kind)?;
                rules.push(SeccompRule::new(vec![is_kind])?);
            }
            rules
        }
    };
    calls.insert(libc::SYS_socket, sockets);
    Ok(calls)
}

fn argument(index: u8, is: SeccompCmpOp, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, is, value.unsigned_abs().into())
}

/// A filter that refuses these calls as if the user were not permitted to make them.
fn filter(calls: Calls) -> Result<BpfProgram, seccompiler::Error> {
    let not_permitted = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, not_permitted, architecture)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::Command;

    use worker_contract::DeviceKind;

    use super::super::{Needs, rights};
    use super::*;

    /// Runs on a thread of its own, which ends with the rights that it gave up.
    fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    fn is_denied<T>(result: std::io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    }

    /// What a thread that gave up its files and ports can do, or why the kernel does not enforce it.
    #[test]
    fn a_thread_opens_only_the_files_and_ports_that_it_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, other) = (folder.path().join("kept"), folder.path().join("other"));
        fs::write(&kept, "model").unwrap();
        fs::write(&other, "secret").unwrap();
        let queen = TcpListener::bind("127.0.0.1:0").unwrap();
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (queen, stranger) = (port(&queen), port(&stranger));
        let rights = Rights {
            read: vec![kept.clone(), "/usr".into(), "/does/not/exist".into()],
            write: vec!["/dev/null".into()],
            listen: Vec::new(),
            connect: vec![queen],
        };
        on_a_thread(|| {
            let abi = match restrict(&rights) {
                Ok(abi) => abi,
                Err(reason) => {
                    assert!(reason.contains("Landlock"), "{reason}");
                    assert_eq!(fs::read_to_string(&other).unwrap(), "secret");
                    return;
                }
            };
            assert_eq!(fs::read_to_string(&kept).unwrap(), "model");
            assert!(fs::read_dir("/usr").is_ok());
            fs::write("/dev/null", "x").unwrap();
            assert!(is_denied(fs::read(&other)));
            assert!(is_denied(fs::read_dir("/home")));
            assert!(is_denied(fs::write(&kept, "changed")));
            assert!(is_denied(fs::write(folder.path().join("new"), "x")));
            assert!(is_denied(fs::remove_file(&kept)));
            assert!(is_denied(Command::new("/usr/bin/env").output()));
            // A thread that is started later is bound as well.
            assert!(on_a_thread(|| is_denied(fs::read(&other))));
            if abi >= 4 {
                assert!(TcpStream::connect(("127.0.0.1", queen)).is_ok());
                assert!(is_denied(TcpStream::connect(("127.0.0.1", stranger))));
                assert!(is_denied(TcpListener::bind("127.0.0.1:0")));
            }
        });
        assert_eq!(fs::read_to_string(&other).unwrap(), "secret", "only the thread is bound");
    }

    /// Whether the kernel takes all other rights from this thread. Only one without Landlock may not.
    fn is_enforced(rights: &Rights) -> bool {
        match restrict(rights) {
            Ok(_) => true,
            Err(reason) => {
                assert!(reason.contains("Landlock"), "{reason}");
                false
            }
        }
    }

    #[test]
    fn a_thread_that_gave_up_all_opens_nothing() {
        on_a_thread(|| {
            if is_enforced(&Rights::default()) {
                for path in ["/etc/hosts", "/proc/self/status", "/dev/null", "/usr/bin/env"] {
                    assert!(is_denied(fs::File::open(path)), "{path}");
                }
            }
        });
    }

    /// CUDA names a thread that it starts, and fails where it may not.
    #[test]
    fn a_thread_that_keeps_a_graphics_card_may_name_another() {
        let needs = Needs {
            files: Vec::new(),
            engine: None,
            listen: 0,
            queen: None,
            device: DeviceKind::Gpu,
        };
        let names = |thread: &str| {
            let name = format!("/proc/self/task/{thread}/comm");
            (fs::write(&name, "driver"), fs::read_to_string(name))
        };
        on_a_thread(|| {
            let at_start = is_enforced(&rights::at_start(&needs, &|_| None));
            on_a_thread(|| {
                let after_load = is_enforced(&rights::after_load(&needs, &|_| None));
                assert_eq!(after_load, at_start, "one kernel enforces both or none");
                let link = fs::read_link("/proc/thread-self").unwrap();
                let thread = link.file_name().unwrap().to_str().unwrap();
                let (written, read) = names(thread);
                written.unwrap();
                assert_eq!(read.unwrap(), "driver\n");
            });
        });
    }

    #[test]
    fn refused_calls_fail_as_not_permitted() {
        on_a_thread(|| {
            let calls = NEVER.map(|call| (call, Vec::new())).into();
            seccompiler::apply_filter(&filter(calls).unwrap()).unwrap();
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(
                status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"),
                "{status}"
            );
            // A new namespace of its own is what every user may have.
            let unshared = Command::new("/usr/bin/unshare").args(["--user", "true"]).output();
            assert!(!unshared.unwrap().status.success());
            assert!(Command::new("/usr/bin/env").output().unwrap().status.success());
        });
    }

    #[test]
    fn after_loading_no_program_runs_and_sockets_are_for_the_queen() {
        let unix = |path: &Path| UnixStream::connect(path);
        let missing = Path::new("/tmp/no-such-socket");
        let by_address = Some(QueenAddress { port: 1, is_name: false });
        let by_name = Some(QueenAddress { port: 1, is_name: true });
        // queen; whether TCP, UDP and UNIX sockets are refused
        let rows = [
            (None, true, true, true),
            (by_address, false, true, true),
            (by_name, false, false, false),
        ];
        for (queen, no_tcp, no_udp, no_unix) in rows {
            on_a_thread(|| {
                let calls = calls_after_load(queen).unwrap();
                seccompiler::apply_filter(&filter(calls).unwrap()).unwrap();
                assert!(is_denied(Command::new("/usr/bin/env").output()));
                assert_eq!(is_denied(TcpListener::bind("127.0.0.1:0")), no_tcp, "{queen:?}");
                assert_eq!(is_denied(UdpSocket::bind("127.0.0.1:0")), no_udp, "{queen:?}");
                assert_eq!(is_denied(unix(missing)), no_unix, "{queen:?}");
            });
        }
    }
}
