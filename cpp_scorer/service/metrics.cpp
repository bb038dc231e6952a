#include "metrics.h"

#include <algorithm>
#include <sstream>

namespace {

template <typename Bounds, typename Histogram>
void observe(const Bounds& bounds, Histogram& histogram, double value) {
  const auto place = std::lower_bound(bounds.begin(), bounds.end(), value);
  ++histogram.counts[static_cast<size_t>(place - bounds.begin())];
  histogram.sum += value;
}

void head(std::ostream& out, const char* name, const char* type, const char* help) {
  out << "# HELP " << name << " " << help << "\n# TYPE " << name << " " << type << "\n";
}

template <typename Value>
void single(std::ostream& out, const char* name, const char* type, const char* help, Value value) {
  head(out, name, type, help);
  out << name << " " << value << "\n";
}

template <typename Bounds, typename Histogram>
void print(std::ostream& out, const char* name, const char* help, const Bounds& bounds, const Histogram& histogram) {
  head(out, name, "histogram", help);
  uint64_t sum = 0;
  for (size_t i = 0; i < bounds.size(); ++i) {
    sum += histogram.counts[i];
    out << name << "_bucket{le=\"" << bounds[i] << "\"} " << sum << "\n";
  }
  sum += histogram.counts.back();
  out << name << "_bucket{le=\"+Inf\"} " << sum << "\n"
      << name << "_sum " << histogram.sum << "\n" << name << "_count " << sum << "\n";
}

}  // namespace

void Metrics::count_request(const std::string& path, int status, double seconds) {
  const std::lock_guard lock(busy_);
  ++requests_[{path, status}];
  if (status == 200 && (path == "/v1/score" || path == "/v1/completions")) observe(kSeconds, seconds_, seconds);
}

void Metrics::count_rows(size_t rows, size_t errors) {
  const std::lock_guard lock(busy_);
  rows_ += rows;
  row_errors_ += errors;
}

void Metrics::count_batch(size_t rows, int64_t tokens) {
  const std::lock_guard lock(busy_);
  tokens_ += static_cast<uint64_t>(tokens);
  observe(kRows, batch_rows_, static_cast<double>(rows));
}

std::string Metrics::text(const Now& now, const std::string& labels) const {
  std::ostringstream out;
  out.precision(9);
  head(out, "score_model_info", "gauge", "The model that is served; always 1.");
  out << "score_model_info{" << labels << "} 1\n";
  single(out, "score_ready", "gauge", "Whether the golden questions were reproduced and nothing ends.", now.ready);
  single(out, "score_connections", "gauge", "Open connections.", now.connections);
  single(out, "score_queued_rows", "gauge", "Rows that wait for a worker.", now.queued_rows);
  const std::lock_guard lock(busy_);
  head(out, "score_requests_total", "counter", "Requests answered.");
  for (const auto& [what, count] : requests_) {
    out << "score_requests_total{path=\"" << what.first << "\",code=\"" << what.second << "\"} " << count << "\n";
  }
  single(out, "score_rows_total", "counter", "Rows answered, error records among them.", rows_);
  single(out, "score_row_errors_total", "counter", "Rows answered with an error record.", row_errors_);
  single(out, "score_tokens_total", "counter", "Packed tokens that were run.", tokens_);
  print(out, "score_request_seconds", "From a whole request that was scored to its response.", kSeconds, seconds_);
  print(out, "score_batch_rows", "Rows of a run.", kRows, batch_rows_);
  return out.str();
}
