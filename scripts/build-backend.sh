#!/usr/bin/env bash
# Builds a GPU backend of the engine as a module that lies beside the worker's other libraries.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/build-backend.sh [--quick] [--native] [--sources DIR] vulkan|cuda|rocm [OUTDIR]

Builds libggml-vulkan.so, libggml-cuda.so or libggml-hip.so from the llama.cpp that the worker was
built from, and puts it into OUTDIR: the folder rbee-engine beside the worker, by default that of
target/release. The worker finds it at its next start (llm-worker-rbee devices). Prints the module's
path.

Needs CMake, a C++ compiler and the maker's tools, but no Rust:
  vulkan   glslc and the headers of Vulkan and SPIR-V (on Debian and Ubuntu they are installed)
  cuda     the CUDA toolkit, with nvcc in PATH
  rocm     ROCm's HIP, with hipconfig in PATH
On macOS the worker's own build has Metal.

  --quick        install nothing: fail where something is missing
  --native       cuda: code for the cards of this machine only. Several times faster to build, but no
                 good for machines with other cards. Needs CMake 3.24
  --sources DIR  llama.cpp's sources; by default those of the crate llama-cpp-sys-2 in the version
                 of Cargo.lock, where cargo has put them (cargo fetch). The worker must be built
                 from the same.
  --help         this text
TEXT
}

main() {
    local sources='' backend='' out=''
    while (($#)); do
        case $1 in
        --quick) quick=yes ;;
        --native) native=yes ;;
        --sources)
            [[ $# -ge 2 ]] || stop "--sources wants a folder"
            sources=$2
            shift
            ;;
        -h | --help)
            usage
            return 0
            ;;
        vulkan | cuda | rocm) backend=$1 ;;
        -*)
            usage >&2
            stop "unknown option: $1"
            ;;
        *)
            [[ -n $backend && -z $out ]] || {
                usage >&2
                stop "unknown backend: $1"
            }
            out=$1
            ;;
        esac
        shift
    done
    [[ -n $backend ]] || {
        usage >&2
        stop "say which backend: vulkan, cuda or rocm"
    }
    [[ $native == no || $backend == cuda ]] || stop "--native is for cuda alone"
    have cmake || stop "cmake is missing."
    [[ -n $sources ]] || sources=$(crate_sources)
    [[ -f $sources/ggml/include/ggml.h ]] || stop "$sources has no llama.cpp in it"
    local target
    target=$(cd "$root" && if have cargo; then target_dir; else echo "${CARGO_TARGET_DIR:-$root/target}"; fi)
    out=${out:-$target/release/rbee-engine}
    build=$target/backends/$backend
    mkdir -p "$build"
    "options_of_$backend"
    build_module
    mkdir -p "$out"
    cp "$build/bin/$module" "$out/.$module.part"
    mv -f "$out/.$module.part" "$out/$module"
    echo "$out/$module"
}

# Where cargo unpacked the sources that the worker is built from.
crate_sources() {
    local version found
    version=$(awk '/^name = "llama-cpp-sys-2"$/ { getline; gsub(/version = |"/, ""); print }' "$root/Cargo.lock")
    found=$(compgen -G "${CARGO_HOME:-$HOME/.cargo}/registry/src/*/llama-cpp-sys-2-$version/llama.cpp" | head -n 1) ||
        stop "llama.cpp's sources are not there. Run: cargo fetch --locked
On a machine without Rust, copy the folder llama.cpp of the crate llama-cpp-sys-2 $version there and name it: --sources DIR"
    echo "$found"
}

# What the crate's build script passes too, so that the module fits the worker's libggml-base.
build_module() {
    local log=$build/log common=(
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON
        -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU=OFF -DGGML_OPENMP=OFF
        -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
        -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF
        # The module takes libggml-base from the folder that it lies in.
        -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN"
    )
    step "Building $module; that takes minutes. Log: $log"
    cmake -S "$sources" -B "$build" "${common[@]}" "${options[@]}" >"$log" 2>&1 || show_failure "$log"
    cmake --build "$build" --config Release --target "${module_target:?}" \
        --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(cores)}" >>"$log" 2>&1 || show_failure "$log"
}

show_failure() {
    tail -n 30 "$1" >&2
    stop "$module could not be built (the last lines are above, all of them in $1)."
}

options_of_cuda() {
    have nvcc || stop "nvcc is missing: install the CUDA toolkit and put its bin folder into PATH."
    module_target=ggml-cuda module=libggml-cuda.so
    options=(-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF)
    # Without it, CMake would go on with what an earlier build with --native told it.
    local cards=-UCMAKE_CUDA_ARCHITECTURES
    [[ $native == no ]] || cards=-DCMAKE_CUDA_ARCHITECTURES=native
    options+=("$cards")
}

options_of_rocm() {
    have hipconfig || stop "hipconfig is missing: install ROCm's HIP and put its bin folder into PATH."
    module_target=ggml-hip module=libggml-hip.so
    options=(-DGGML_HIP=ON)
    HIPCXX=${HIPCXX:-$(hipconfig -l)/clang} HIP_PATH=${HIP_PATH:-$(hipconfig -R)}
    export HIPCXX HIP_PATH
}

options_of_vulkan() {
    module_target=ggml-vulkan module=libggml-vulkan.so
    options=(-DGGML_VULKAN=ON)
    [[ -z ${VULKAN_SDK-} ]] || return 0
    have glslc || vulkan_package glslc
    if headers_are_new_enough /usr; then
        have_loader_link || vulkan_package libvulkan-dev
        return 0
    fi
    if [[ $(system) == debian ]] && distribution_has_new_headers; then
        vulkan_package libvulkan-dev spirv-headers
        return 0
    fi
    local headers=$build/headers
    headers_are_new_enough "$headers/usr" || unpack_debian_headers "$headers"
    [[ -n $(loader) ]] || vulkan_package libvulkan1
    options+=(
        "-DVulkan_INCLUDE_DIR=$headers/usr/include" "-DVulkan_LIBRARY=$(loader)"
        "-DSPIRV-Headers_DIR=$headers/usr/share/cmake/SPIRV-Headers"
    )
}

# ggml-vulkan is written against these; headers of Vulkan 1.3.239 do not have the first.
headers_are_new_enough() {
    grep -qs 'struct LayerSettingEXT' "$1/include/vulkan/vulkan_structs.hpp" &&
        [[ -f $1/include/spirv/unified1/spirv.hpp && -f $1/share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake ]]
}

distribution_has_new_headers() {
    local version
    version=$(apt-cache policy libvulkan-dev | awk '/Candidate:/ { print $2 }')
    [[ -n $version ]] && dpkg --compare-versions "$version" ge 1.3.275
}

have_loader_link() { compgen -G '/usr/lib*/libvulkan.so' >/dev/null || compgen -G '/usr/lib/*/libvulkan.so' >/dev/null; }

loader() { ldconfig -p | awk '/libvulkan\.so\.1 / { print $NF; exit }'; }

vulkan_package() {
    [[ $quick == no ]] || stop "missing: $*"
    case $(system) in
    debian) apt_install "$*" ;;
    fedora) show_install "sudo dnf install glslc vulkan-headers vulkan-loader-devel spirv-headers-devel" ;;
    arch) show_install "sudo pacman -S --needed shaderc vulkan-headers vulkan-icd-loader spirv-headers" ;;
    *) stop "the Vulkan SDK is missing: install it, and set VULKAN_SDK to its folder." ;;
    esac
}

# Takes the headers of Debian 13 from the mirror that this Debian uses, and installs nothing: they
# are for the compiler only, and go with the older loader.
unpack_debian_headers() {
    local folder=$1 mirror package
    [[ $(system) == debian && $(. /etc/os-release && echo "$ID") == debian ]] ||
        stop "the headers of Vulkan and SPIR-V here are too old or missing: 1.3.275 or later is needed. Install the Vulkan SDK and set VULKAN_SDK to its folder."
    # shellcheck disable=SC2016 # apt-get fills these in
    mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Identifier: Packages' |
        awk '$1 == "Debian" { print $2; exit }')
    [[ -n $mirror ]] || stop "no Debian mirror is set up here. Run: apt-get update"
    say "This system's Vulkan headers are too old. Taking those of Debian 13 for this build, into $folder"
    mkdir -p "$folder"/apt/{lists/partial,cache/archives/partial}
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$mirror" >"$folder/apt/sources.list"
    local apt=(
        apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourceparts=- -o "Dir::Etc::sourcelist=$folder/apt/sources.list"
        -o "Dir::State::lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt/cache"
    )
    "${apt[@]}" update || stop "the list of Debian 13's packages could not be read (apt-get's reason is above)."
    (cd "$folder/apt" && "${apt[@]}" download libvulkan-dev spirv-headers) ||
        stop "the headers could not be downloaded (apt-get's reason is above)."
    for package in "$folder"/apt/*.deb; do
        dpkg -x "$package" "$folder"
    done
    rm -rf "$folder/apt"
}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
quick=no native=no options=() module='' module_target='' build=''
# shellcheck source=scripts/requirements.sh
source "$root/scripts/requirements.sh"
main "$@"
