//! Lays llama.cpp's shared libraries beside the worker and tells the linker where they will be.
//!
//! `llama-cpp-sys-2` builds `libllama`, `libggml`, `libggml-base` and one CPU backend per
//! instruction set into its own build folder. This script gathers them, under the names that the
//! loader asks for, in one folder `rbee-engine/` beside the binary. The run path looks there first,
//! then in `../lib/rbee-engine`, and last in the build's own `rbee-engine/`.
#![expect(
    clippy::unwrap_used,
    reason = "a build script fails by panicking, with the cause in its text"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    compile_memory_breakdown();
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    // OUT_DIR is <target>/<profile>/build/<package>-<hash>/out
    let profile_dir = out_dir.ancestors().nth(3).unwrap();
    let backends = PathBuf::from(
        std::env::var_os("DEP_LLAMA_BACKENDS_DIR")
            .expect("llama-cpp-sys-2 must be built with its feature dynamic-backends"),
    );
    let build_out = backends.parent().unwrap();
    let engine_dir = profile_dir.join("rbee-engine");
    fs::create_dir_all(&engine_dir).unwrap();

    let has_broken_amx = compiler_breaks_amx();
    for folder in [build_out.join("lib"), build_out.join("lib64"), backends.clone()] {
        for library in shared_libraries(&folder) {
            if has_broken_amx && uses_amx(&library) {
                let _ = fs::remove_file(engine_dir.join(library.file_name().unwrap()));
            } else {
                place(&library, &engine_dir);
            }
        }
    }
    for folder in ["", "deps", "examples"] {
        remove_dangling_links(&profile_dir.join(folder));
    }
    println!("cargo:rerun-if-changed={}", engine_dir.join("libllama.so.0").display());
    println!("cargo:rustc-env=RBEE_BUILD_ENGINE_DIR={}", engine_dir.display());

    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // DT_RPATH instead of DT_RUNPATH: it also serves the libraries that these libraries need.
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/rbee-engine");
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/rbee-engine");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", engine_dir.display());
    } else if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,@executable_path/rbee-engine");
        println!("cargo:rustc-link-arg=-Wl,-rpath,@executable_path/../lib/rbee-engine");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", engine_dir.display());
    }
}

/// Compiles the one file of C++, with the header of llama.cpp that is not installed: the sources
/// that `llama-cpp-sys-2` was built from are named in its CMake cache.
fn compile_memory_breakdown() {
    const FILE: &str = "src/engine/llama/memory_breakdown.cpp";
    println!("cargo:rerun-if-changed={FILE}");
    let built = PathBuf::from(std::env::var_os("DEP_LLAMA_ROOT").unwrap());
    let cache = fs::read_to_string(built.join("build/CMakeCache.txt")).unwrap();
    let home = cache.lines().find_map(|l| l.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
    let sources = PathBuf::from(home.expect("a CMake cache names its sources"));
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file(FILE)
        .include(sources.join("src"))
        .include(sources.join("include"))
        .include(sources.join("ggml/include"))
        .compile("rbee_memory_breakdown");
}

/// Removes the links to shared libraries that `llama-cpp-sys-2` leaves in the target folder.
///
/// They point to names that are not there, so nothing uses them; but its build script fails on them
/// when it runs a second time in the same target folder, after an upgrade for one.
fn remove_dangling_links(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_library = path.file_name().is_some_and(|n| n.to_string_lossy().contains(".so"));
        if is_library && path.is_symlink() && !path.exists() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether the C++ compiler makes AMX code that ends with an illegal instruction.
///
/// Before GCC 14, `_tile_loadconfig` tells the optimiser that it reads only the first eight bytes of
/// the tile configuration (`amxtileintrin.h`), so the stores of the rest are removed as dead.
fn compiler_breaks_amx() -> bool {
    let compiler = cc::Build::new().cpp(true).opt_level(3).get_compiler();
    if !compiler.is_like_gnu() || compiler.is_like_clang() {
        return false;
    }
    let version = compiler.to_command().arg("-dumpversion").output().ok();
    let version = version.and_then(|output| String::from_utf8(output.stdout).ok());
    let major = version.and_then(|text| text.trim().split('.').next()?.parse::<u32>().ok());
    major.is_none_or(|major| major < 14)
}

/// Whether a CPU backend uses AMX: those for Sapphire Rapids and later do (ggml's CMakeLists.txt).
/// Without it ggml takes the next best, with AVX-512.
fn uses_amx(library: &Path) -> bool {
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    ["sapphirerapids", "graniterapids", "diamondrapids"].iter().any(|cpu| name.contains(cpu))
}

/// The shared libraries of a folder by the names that a loader asks for: `libx.so.0` where it
/// exists, else `libx.so`; a full version (`libx.so.0.1.2`) is only what those point to.
fn shared_libraries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names: Vec<String> =
        entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    let is_loaded_name = |name: &String| {
        let Some((_, version)) = name.split_once(".so") else {
            return Path::new(name).extension().is_some_and(|e| e == "dylib");
        };
        match version {
            "" => !names.contains(&format!("{name}.0")),
            version => version.matches('.').count() == 1,
        }
    };
    names.iter().filter(|n| is_loaded_name(n)).map(|n| folder.join(n)).collect()
}

/// Puts a copy of `library` (its contents, not the link) into `folder`, replacing atomically what
/// is there: a running worker may have it open.
fn place(library: &Path, folder: &Path) {
    let name = library.file_name().unwrap();
    let source = library.canonicalize().unwrap();
    let target = folder.join(name);
    let same_size = |a: &Path, b: &Path| {
        fs::metadata(a).map(|m| (m.len(), m.modified().ok())).ok()
            == fs::metadata(b).map(|m| (m.len(), m.modified().ok())).ok()
    };
    if same_size(&source, &target) {
        return;
    }
    let part = folder.join(format!(".{}.part", name.to_string_lossy()));
    let _ = fs::remove_file(&part);
    if fs::hard_link(&source, &part).is_err() {
        fs::copy(&source, &part).unwrap();
    }
    fs::rename(&part, &target).unwrap();
}
