# Compiles for 64-bit ARM on another machine and runs the tests under QEMU. COGSERVE_ARM64_ROOT
# holds Debian's packages, unpacked; scripts/test-arm64.sh fills it.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES COGSERVE_ARM64_ROOT)
set(CMAKE_FIND_ROOT_PATH ${COGSERVE_ARM64_ROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)

set(compiler_root /usr/aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR
    qemu-aarch64-static -L ${compiler_root}
    -E LD_LIBRARY_PATH=${compiler_root}/lib:${COGSERVE_ARM64_ROOT}/usr/lib/aarch64-linux-gnu)
