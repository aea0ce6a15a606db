# System packages only; nothing is downloaded. `scripts/install-deps.sh` names the packages.
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json 3.10 REQUIRED)
find_package(PkgConfig REQUIRED)

# Highway's pkg-config file is broken in Debian 12; its library and headers are not.
find_library(HWY_LIBRARY hwy REQUIRED)
find_path(HWY_INCLUDE_DIR hwy/highway.h REQUIRED)
add_library(cogserve_hwy INTERFACE)
target_link_libraries(cogserve_hwy INTERFACE ${HWY_LIBRARY})
target_include_directories(cogserve_hwy SYSTEM INTERFACE ${HWY_INCLUDE_DIR})

if(COGSERVE_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(COGSERVE_BUILD_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()

if(COGSERVE_BUILD_SERVER)
  find_package(Protobuf REQUIRED)
  find_package(spdlog REQUIRED)
  find_package(yaml-cpp REQUIRED)
  find_package(JPEG REQUIRED)
  find_package(PNG REQUIRED)
  find_package(OpenSSL REQUIRED)
  pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
  pkg_check_modules(WEBP REQUIRED IMPORTED_TARGET libwebp)
  pkg_check_modules(GRPCPP REQUIRED IMPORTED_TARGET grpc++)
  find_program(PROTOC protoc REQUIRED)
  find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
  find_library(GRPCPP_REFLECTION_LIBRARY grpc++_reflection REQUIRED)

  # OpenCV's own package config comes with the whole of OpenCV (and GDAL behind it); two of its
  # modules are all that is used, and imgcodecs must never be linked.
  find_path(OPENCV_INCLUDE_DIR opencv2/core.hpp PATH_SUFFIXES opencv4 REQUIRED)
  find_library(OPENCV_CORE_LIBRARY opencv_core REQUIRED)
  find_library(OPENCV_IMGPROC_LIBRARY opencv_imgproc REQUIRED)
  file(READ ${OPENCV_INCLUDE_DIR}/opencv2/core/version.hpp opencv_version_header)
  string(REGEX MATCH "CV_VERSION_MINOR +([0-9]+)" _ "${opencv_version_header}")
  if(CMAKE_MATCH_1 EQUAL 10 OR CMAKE_MATCH_1 EQUAL 11)
    message(FATAL_ERROR "OpenCV 4.10 and 4.11 can return an earlier picture (CVE-2025-53644); "
                        "install another version")
  endif()
  add_library(cogserve_opencv INTERFACE)
  target_include_directories(cogserve_opencv SYSTEM INTERFACE ${OPENCV_INCLUDE_DIR})
  target_link_libraries(cogserve_opencv INTERFACE ${OPENCV_CORE_LIBRARY} ${OPENCV_IMGPROC_LIBRARY})
endif()
