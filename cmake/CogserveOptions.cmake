# cogserve_options: what every target of ours is compiled with.
add_library(cogserve_options INTERFACE)
target_include_directories(cogserve_options INTERFACE ${PROJECT_SOURCE_DIR})
# No contraction behind our back: a row's bits may not depend on what the compiler fused where. (In
# CUDA's device code, what must not be fused says so.)
set(cogserve_host_flags -Wall -Wextra -Wshadow -Werror -fstack-protector-strong -ffp-contract=off)
string(REPLACE ";" "," cogserve_host_flags_for_nvcc "${cogserve_host_flags}")
target_compile_options(cogserve_options INTERFACE
                       "$<$<COMPILE_LANGUAGE:CXX>:${cogserve_host_flags}>"
                       "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${cogserve_host_flags_for_nvcc}>"
                       "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>"
                       "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>"
                       "$<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>")
target_compile_definitions(cogserve_options INTERFACE
                           $<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS>)

if(COGSERVE_BUILD_FUZZERS)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(COGSERVE_SANITIZE)
  target_compile_definitions(cogserve_options INTERFACE _GLIBCXX_ASSERTIONS)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${COGSERVE_SANITIZE};\
-fno-sanitize-recover=all;-fno-omit-frame-pointer;-g1>")
  add_link_options(-fsanitize=${COGSERVE_SANITIZE})
else()
  add_compile_options($<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2>)
  add_link_options(-Wl,-z,relro,-z,now)
endif()
