// How many calls one caller may have at once, and how fast they may come.
//
// So that a caller who asks for everything leaves room for the others. Thread-safe; time is passed
// in.
#pragma once

#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "engine/request.hpp"

namespace cogserve {

struct QuotaLimits {
  int max_calls = 48;  // running and waiting; 0 = any number
  int max_rate = 20;  // calls a second in the long run, up to twice as many at once; 0 = any number
};

class CallerQuota {
 public:
  // A call's place; gone with it. One that was made without a quota is nobody's.
  class Place {
   public:
    Place() = default;
    Place(Place&& other) noexcept;
    Place& operator=(Place&& other) noexcept;
    ~Place();

   private:
    friend class CallerQuota;
    Place(CallerQuota* quota, std::string caller) : quota_(quota), caller_(std::move(caller)) {}

    CallerQuota* quota_ = nullptr;
    std::string caller_;
  };

  explicit CallerQuota(const QuotaLimits& limits) : limits_(limits) {}

  // RESOURCE_EXHAUSTED TENANT_QUOTA with the time after which to try again. The quota outlives the
  // place.
  absl::StatusOr<Place> take(const std::string& caller, Clock::time_point now);

 private:
  // Callers remembered; beyond that those who have nothing left to remember are forgotten.
  static constexpr size_t kMaxCallers = 4096;

  struct Caller {
    int calls = 0;
    double tokens = 0;  // calls that may come at once
    Clock::time_point filled;
  };

  double burst() const { return 2.0 * limits_.max_rate; }
  void fill(Caller* caller, Clock::time_point now) const;
  void forget_idle(Clock::time_point now);
  void give_back(const std::string& caller);

  const QuotaLimits limits_;
  std::mutex mutex_;
  std::unordered_map<std::string, Caller> callers_;
};

}  // namespace cogserve
