// What the GPU's benchmarks have in common: the end when there is no GPU, and results as JSON.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cogserve::bench {

// The exit code of a benchmark that found no CUDA device.
inline constexpr int kNoDevice = 3;

// Figures by name, each measurement an object: {"<name>": {"ms": 1.5, ...}, ...}.
class GpuResults {
 public:
  using Figures = std::vector<std::pair<std::string, double>>;

  // The file is replaced with each measurement: a benchmark that is cut off leaves what it had. An
  // empty path means no file.
  explicit GpuResults(std::string path) : path_(std::move(path)) {}

  // Printed at once. Throws std::runtime_error if the file cannot be written.
  void add(const std::string& name, const Figures& figures);

 private:
  void write() const;

  std::string path_;
  std::vector<std::pair<std::string, Figures>> results_;
};

}  // namespace cogserve::bench
