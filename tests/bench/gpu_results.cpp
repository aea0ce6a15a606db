#include "tests/bench/gpu_results.hpp"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace cogserve::bench {

void GpuResults::add(const std::string& name, const Figures& figures) {
  std::printf("%-44s", name.c_str());
  for (const auto& [figure, value] : figures) std::printf(" %s=%.4g", figure.c_str(), value);
  std::printf("\n");
  std::fflush(stdout);
  results_.emplace_back(name, figures);
  if (!path_.empty()) write();
}

void GpuResults::write() const {
  nlohmann::ordered_json all;
  for (const auto& [name, figures] : results_) {
    for (const auto& [figure, value] : figures) all[name][figure] = value;
  }
  const std::string beside = path_ + ".new";
  std::ofstream out(beside);
  out << all.dump(1) << "\n";
  out.close();
  if (!out) throw std::runtime_error(beside + ": cannot be written");
  std::filesystem::rename(beside, path_);
}

}  // namespace cogserve::bench
