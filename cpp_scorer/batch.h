#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "packer.h"
#include "prepared_question.h"

/// Questions for one run. A row at fault makes a batch by itself, which is not run.
class Batch {
 public:
  explicit Batch(PreparedQuestion first) { add(std::move(first)); }
  /// These, of which there is at least one.
  explicit Batch(const std::vector<PreparedQuestion>& questions) {
    for (const PreparedQuestion& question : questions) add(question);
  }

  /// Whether the question may join: within `batch_tokens` padded tokens (questions x longest row), a tenth of them
  /// padding at most, since padding costs as much as tokens do.
  bool accepts(const PreparedQuestion& question, int64_t batch_tokens) const;

  void add(PreparedQuestion question);

  const std::vector<PreparedQuestion>& questions() const { return questions_; }

  PackedBatch packed() const;

 private:
  std::vector<PreparedQuestion> questions_;
  int64_t longest_ = 0, tokens_ = 0;
};
