//! Which files and ports a worker goes on needing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use worker_contract::DeviceKind;

use super::Needs;

/// Where libraries, drivers and what these read of the machine are. `/proc` shows other processes no
/// more than their names: Landlock keeps the rest from a process that it binds.
const SYSTEM: [&str; 11] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/run/opengl-driver",
    "/proc",
    "/sys",
    "/dev/urandom",
];

/// Settings: of name resolution for one, which the C library reads at each look-up.
const SETTINGS: &str = "/etc";

/// Devices that drivers open. All backends are asked for their devices, whichever is used.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/dri", "/dev/kfd", "/dev/dxg", "/dev/shm", "/dev/nvidia-caps"];

/// NVIDIA's device files: these, and one with a number for each card.
const NVIDIA: [&str; 4] =
    ["/dev/nvidiactl", "/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"];

/// What the kernel shows of this process's own threads. Drivers give them names there: CUDA gives up where it
/// may not.
pub(super) const THREADS: &str = "/proc/self/task";

/// The most cards of one machine.
const CARDS: u32 = 64;

/// Variables with folders of libraries, or files that tell of drivers, separated by colons.
const PATHS: [&str; 5] = [
    "LD_LIBRARY_PATH",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "VK_ADD_DRIVER_FILES",
    "VK_ADD_LAYER_PATH",
];

/// The port of name servers: an answer that is too long for UDP comes by TCP.
const DNS: u16 = 53;

/// What may be opened; what does not exist is left out by who applies it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rights {
    /// Files, and folders with all that is in them, for reading.
    pub(super) read: Vec<PathBuf>,
    /// The same for reading and writing, and for creating and removing files.
    pub(super) write: Vec<PathBuf>,
    /// TCP ports to listen on.
    pub(super) listen: Vec<u16>,
    /// TCP ports to connect to.
    pub(super) connect: Vec<u16>,
}

/// The environment's variables.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// For the whole process, from before the model is read.
pub(super) fn at_start(needs: &Needs, variables: Variables<'_>) -> Rights {
    let mut read = needs.files.clone();
    read.extend(libraries(needs, variables));
    read.push(PathBuf::from(SETTINGS));
    // Often a link to a file that is replaced by a service.
    if let Ok(resolver) = Path::new("/etc/resolv.conf").canonicalize() {
        read.extend(resolver.parent().map(Path::to_owned));
    }
    let mut connect = Vec::new();
    if let Some(queen) = needs.queen {
        connect.push(queen.port);
        connect.extend(queen.is_name.then_some(DNS));
    }
    Rights { read, write: devices(needs, variables), listen: vec![needs.listen], connect }
}

/// For the engine's thread and those that it starts.
pub(super) fn after_load(needs: &Needs, variables: Variables<'_>) -> Rights {
    match needs.device {
        DeviceKind::Cpu => Rights::default(),
        // Drivers open devices and compile shaders when they are first used.
        DeviceKind::Gpu => Rights {
            read: libraries(needs, variables),
            write: devices(needs, variables),
            ..Rights::default()
        },
    }
}

fn libraries(needs: &Needs, variables: Variables<'_>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    folders.extend(needs.engine.clone());
    for name in PATHS {
        let paths = variables(name).unwrap_or_default();
        folders.extend(std::env::split_paths(&paths).filter(|path| path.is_absolute()));
    }
    folders
}

fn devices(needs: &Needs, variables: Variables<'_>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = DEVICES.iter().chain(&NVIDIA).map(PathBuf::from).collect();
    paths.extend((0..CARDS).map(|card| PathBuf::from(format!("/dev/nvidia{card}"))));
    if needs.device == DeviceKind::Gpu {
        paths.push(PathBuf::from(THREADS));
        paths.extend(shader_caches(variables));
    }
    paths
}

/// Where drivers keep what they have compiled: without it each start takes as long as the first.
fn shader_caches(variables: Variables<'_>) -> Vec<PathBuf> {
    let folder = |name: &str| variables(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = folder("HOME");
    let cache = folder("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
    let in_cache = |name: &str| cache.as_ref().map(|cache| cache.join(name));
    let found = [
        folder("CUDA_CACHE_PATH"),
        folder("MESA_SHADER_CACHE_DIR"),
        home.as_ref().map(|home| home.join(".nv")),
        in_cache("nvidia"),
        in_cache("mesa_shader_cache"),
        in_cache("mesa_shader_cache_db"),
        in_cache("AMD"),
    ];
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::super::QueenAddress;
    use super::*;

    fn needs(device: DeviceKind, queen: Option<QueenAddress>) -> Needs {
        Needs {
            files: vec!["/models/m.gguf".into()],
            engine: Some("/app/rbee-engine".into()),
            listen: 9300,
            queen,
            device,
        }
    }

    fn variables(name: &str) -> Option<OsString> {
        match name {
            "HOME" => Some("/home/ada".into()),
            "LD_LIBRARY_PATH" => Some("/opt/own:relative::/more".into()),
            _ => None,
        }
    }

    #[test]
    fn a_worker_on_the_processor_ends_with_nothing() {
        let rights = after_load(&needs(DeviceKind::Cpu, None), &variables);
        assert_eq!(rights, Rights::default());
    }

    #[test]
    fn at_start_the_model_is_read_and_no_home_is() {
        let rights = at_start(&needs(DeviceKind::Cpu, None), &variables);
        let reads = |path: &str| rights.read.contains(&PathBuf::from(path));
        assert!(reads("/models/m.gguf") && reads("/app/rbee-engine") && reads("/etc"));
        assert!(reads("/opt/own") && reads("/more") && !reads("relative") && !reads(""));
        assert!(!reads("/") && !reads("/home") && !reads("/models"));
        assert!(rights.write.iter().all(|path| path.starts_with("/dev")), "{:?}", rights.write);
        assert_eq!((rights.listen, rights.connect), (vec![9300], vec![]));
    }

    #[test]
    fn connections_go_to_the_queen_and_for_her_name_to_name_servers() {
        for (is_name, wanted) in [(false, vec![8500]), (true, vec![8500, 53])] {
            let queen = Some(QueenAddress { port: 8500, is_name });
            assert_eq!(at_start(&needs(DeviceKind::Cpu, queen), &variables).connect, wanted);
            assert_eq!(after_load(&needs(DeviceKind::Gpu, queen), &variables).connect, vec![0; 0]);
        }
    }

    #[test]
    fn a_graphics_card_keeps_its_devices_and_shader_caches() {
        let rights = after_load(&needs(DeviceKind::Gpu, None), &variables);
        let kept =
            ["/dev/nvidia0", "/dev/dri", "/home/ada/.nv", "/home/ada/.cache/nvidia", THREADS];
        for path in kept {
            assert!(rights.write.contains(&PathBuf::from(path)), "{path}");
        }
        assert!(!rights.read.contains(&PathBuf::from("/models/m.gguf")));
        assert!(!rights.read.contains(&PathBuf::from("/etc")));
    }
}
