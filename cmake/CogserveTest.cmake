# cogserve_test(NAME <name> SOURCES <files> LIBS <targets>): a GoogleTest executable, run by ctest
# as one test. cogserve_bench and cogserve_fuzz do the same for Google Benchmark and libFuzzer.
include_guard()

function(cogserve_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT COGSERVE_BUILD_TESTS)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  list(GET ARG_SOURCES 0 first)  # TEMPORARY
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${first})  # TEMPORARY
    return()  # TEMPORARY
  endif()  # TEMPORARY
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBS} cogserve_options GTest::gmock GTest::gtest_main)
  target_compile_definitions(${ARG_NAME} PRIVATE COGSERVE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()

function(cogserve_bench)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;LIBS" ${ARGN})
  if(NOT COGSERVE_BUILD_BENCHMARKS)
    return()
  endif()
  list(GET ARG_SOURCES 0 first)  # TEMPORARY
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${first})  # TEMPORARY
    return()  # TEMPORARY
  endif()  # TEMPORARY
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBS} cogserve_options benchmark::benchmark)
  target_compile_definitions(${ARG_NAME} PRIVATE COGSERVE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
endfunction()

# Needs clang. ctest runs each target for COGSERVE_FUZZ_SECONDS over its seed corpus, if any.
function(cogserve_fuzz)
  cmake_parse_arguments(ARG "" "NAME;MAX_LEN" "SOURCES;LIBS" ${ARGN})
  if(NOT COGSERVE_BUILD_FUZZERS)
    return()
  endif()
  if(NOT ARG_MAX_LEN)
    set(ARG_MAX_LEN 65536)
  endif()
  list(GET ARG_SOURCES 0 first)  # TEMPORARY
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${first})  # TEMPORARY
    return()  # TEMPORARY
  endif()  # TEMPORARY
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBS} cogserve_options)
  target_compile_definitions(${ARG_NAME} PRIVATE COGSERVE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_options(${ARG_NAME} PRIVATE -fsanitize=fuzzer)
  add_test(NAME ${ARG_NAME}
           COMMAND ${ARG_NAME} -max_total_time=${COGSERVE_FUZZ_SECONDS} -max_len=${ARG_MAX_LEN}
                   -rss_limit_mb=2048 -timeout=10)
endfunction()
