#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

/// What the service counts, in the text form of Prometheus. May be called from several threads.
class Metrics {
 public:
  /// A request that was answered, to the end of its response.
  void count_request(const std::string& path, int status, double seconds);
  void count_rows(size_t rows, size_t errors);
  void count_batch(size_t rows, int64_t tokens);

  struct Now {
    size_t queued_rows, connections;
    bool ready;
  };
  /// `labels` of the model: name="value" pairs.
  std::string text(const Now& now, const std::string& labels) const;

 private:
  template <size_t N>
  struct Histogram {
    std::array<uint64_t, N + 1> counts{};  // of values up to each bound, and above the last
    double sum = 0;
  };

  static constexpr std::array<double, 15> kSeconds{0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                   1,      2.5,   5,    10,    30,   60,  120};
  static constexpr std::array<double, 7> kRows{1, 2, 4, 8, 16, 32, 64};

  mutable std::mutex busy_;
  std::map<std::pair<std::string, int>, uint64_t> requests_;
  uint64_t rows_ = 0, row_errors_ = 0, tokens_ = 0;
  Histogram<kSeconds.size()> seconds_;
  Histogram<kRows.size()> batch_rows_;
};
