#include "scorer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iomanip>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "errors.h"
#include "packer.h"
#include "prefetcher.h"

namespace {

// Padding costs as much as tokens do, so a batch may not hold more of it than this share.
constexpr double kLargestPadding = 0.1;

/// Questions for one run. A row at fault makes a batch by itself, which is not run.
class Batch {
 public:
  explicit Batch(PreparedQuestion first) { add(std::move(first)); }

  bool accepts(const PreparedQuestion& question, int64_t batch_tokens) const {
    if (!question.error.empty() || !questions_[0].error.empty()) return false;
    const int64_t length = question.encoded.num_tokens();
    const int64_t padded = static_cast<int64_t>(questions_.size() + 1) * std::max(longest_, length);
    const auto padding = static_cast<double>(padded - tokens_ - length);
    return padded <= batch_tokens && padding <= kLargestPadding * static_cast<double>(padded);
  }

  void add(PreparedQuestion question) {
    longest_ = std::max(longest_, question.encoded.num_tokens());
    tokens_ += question.encoded.num_tokens();
    questions_.push_back(std::move(question));
  }

  const std::vector<PreparedQuestion>& questions() const { return questions_; }

  PackedBatch packed() const {
    std::vector<const EncodedQuestion*> rows;
    for (const PreparedQuestion& question : questions_) rows.push_back(&question.encoded);
    return pack(rows);
  }

  /// The same endings after another prompt.
  PackedBatch packed_after(const std::vector<int64_t>& prompt_ids) const {
    std::vector<EncodedQuestion> questions;
    for (const PreparedQuestion& question : questions_) {
      questions.push_back({prompt_ids, question.encoded.ending_ids, {}, 0});
    }
    std::vector<const EncodedQuestion*> rows;
    for (const EncodedQuestion& question : questions) rows.push_back(&question);
    return pack(rows);
  }

 private:
  std::vector<PreparedQuestion> questions_;
  int64_t longest_ = 0, tokens_ = 0;
};

/// The log-probs of one row's candidates. Throws RowError where one is not finite.
std::vector<float> candidates_of(const Logprobs& logprobs, size_t row, const EncodedQuestion& question) {
  const float* first = logprobs.values.data() + static_cast<int64_t>(row) * logprobs.num_candidates;
  std::vector<float> values(first, first + question.ending_ids.size());
  for (size_t k = 0; k < values.size(); ++k) {
    if (!std::isfinite(values[k])) throw RowError("the log-prob of candidate " + std::to_string(k) + " is not finite");
    // Where a branch lies moves its last digits; equal endings must tie all the same.
    const auto equal = std::find(question.ending_ids.begin(), question.ending_ids.end(), question.ending_ids[k]);
    values[k] = values[static_cast<size_t>(equal - question.ending_ids.begin())];
  }
  return values;
}

/// What was computed for a batch; `neutral` and `reference` where they are asked for.
struct Scored {
  Logprobs logprobs;
  std::optional<Logprobs> neutral, reference;
};

Prediction predict(const PreparedQuestion& question, size_t row, const Scored& scored, Score score) {
  Prediction prediction;
  prediction.id = question.id;
  prediction.label = question.label;
  prediction.score = score;
  prediction.logprobs = candidates_of(scored.logprobs, row, question.encoded);
  if (scored.neutral) prediction.neutral_logprobs = candidates_of(*scored.neutral, row, question.encoded);
  if (scored.reference) prediction.reference_logprobs = candidates_of(*scored.reference, row, question.encoded);
  for (const auto& ids : question.encoded.ending_ids) prediction.tokens.push_back(static_cast<int64_t>(ids.size()));
  prediction.bytes = question.encoded.ending_bytes;
  prediction.truncated = question.encoded.truncated;
  return prediction;
}

}  // namespace

std::string Totals::summary(Score score) const {
  constexpr double z = 1.959964;  // of the standard normal distribution, 95 % two-sided
  const auto n = static_cast<double>(labelled);
  const double accuracy = static_cast<double>(correct) / n;
  const double centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n));
  std::ostringstream line;
  line << std::fixed << std::setprecision(2) << "accuracy (" << name_of(score) << "): " << 100 * accuracy
       << "% [" << 100 * std::max(0.0, centre - half) << "%, " << 100 * (centre + half) << "%] " << correct << " of " << labelled
       << ", " << static_cast<double>(questions - errors) / seconds << " questions/s";
  return line.str();
}

Totals score_stream(LineReader& input, OutputFile& output, std::ostream& log, const PromptEncoder& encoder,
                    Session& model, Session* reference, const ScorerOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  Totals totals;

  const auto record_error = [&](const PreparedQuestion& question, const std::string& error) {
    ++totals.errors;
    log << "error: " << input.name() << ":" << question.line << ": " << error << std::endl;
    return error_to_json(question.id, error);
  };
  const auto record = [&](const PreparedQuestion& question, const Prediction& prediction) {
    if (question.label) {
      ++totals.labelled;
      totals.correct += prediction.choice() == static_cast<size_t>(*question.label);
    }
    return prediction.to_json();
  };

  Prefetcher prefetcher(input, encoder);
  while (auto first = prefetcher.next()) {
    Batch batch(std::move(*first));
    while (auto next = prefetcher.next_if([&](const auto& ready) { return batch.accepts(ready, options.batch_tokens); })) {
      batch.add(std::move(*next));
    }
    const auto& questions = batch.questions();
    totals.questions += questions.size();
    if (!questions[0].error.empty()) {
      output.write(record_error(questions[0], questions[0].error));
      continue;
    }
    const PackedBatch packed = batch.packed();
    Scored scored{model.run(packed), std::nullopt, std::nullopt};
    if (options.score == Score::kPmi) scored.neutral = model.run(batch.packed_after(encoder.neutral_prompt_ids()));
    if (reference) scored.reference = reference->run(packed);
    std::string lines;
    for (size_t row = 0; row < questions.size(); ++row) {
      try {
        lines += record(questions[row], predict(questions[row], row, scored, options.score));
      } catch (const RowError& error) {
        lines += record_error(questions[row], error.what());
      }
    }
    output.write(lines);
  }
  totals.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return totals;
}
