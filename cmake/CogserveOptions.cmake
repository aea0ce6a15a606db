# cogserve_options: what every target of ours is compiled with.
add_library(cogserve_options INTERFACE)
target_include_directories(cogserve_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(cogserve_options INTERFACE -Wall -Wextra -Wshadow -Werror
                       -fstack-protector-strong)
# No contraction behind our back: a row's bits may not depend on what the compiler fused where.
target_compile_options(cogserve_options INTERFACE -ffp-contract=off)
target_compile_definitions(cogserve_options INTERFACE
                           $<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS>)

if(COGSERVE_BUILD_FUZZERS)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(COGSERVE_SANITIZE)
  add_compile_options(-fsanitize=${COGSERVE_SANITIZE} -fno-sanitize-recover=all
                      -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${COGSERVE_SANITIZE})
else()
  add_compile_options($<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2>)
  add_link_options(-Wl,-z,relro,-z,now)
endif()
