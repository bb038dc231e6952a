#include "batch.h"

#include <algorithm>

namespace {

constexpr double kLargestPadding = 0.1;

}  // namespace

bool Batch::accepts(const PreparedQuestion& question, int64_t batch_tokens) const {
  if (!question.error.empty() || !questions_[0].error.empty()) return false;
  const int64_t length = question.encoded.num_tokens();
  const int64_t padded = static_cast<int64_t>(questions_.size() + 1) * std::max(longest_, length);
  const auto padding = static_cast<double>(padded - tokens_ - length);
  return padded <= batch_tokens && padding <= kLargestPadding * static_cast<double>(padded);
}

void Batch::add(PreparedQuestion question) {
  longest_ = std::max(longest_, question.encoded.num_tokens());
  tokens_ += question.encoded.num_tokens();
  questions_.push_back(std::move(question));
}

PackedBatch Batch::packed() const {
  std::vector<const EncodedQuestion*> rows;
  for (const PreparedQuestion& question : questions_) rows.push_back(&question.encoded);
  return pack(rows);
}
