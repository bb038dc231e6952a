#include "scorer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iomanip>
#include <new>
#include <optional>
#include <sstream>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "batch.h"
#include "errors.h"
#include "prefetcher.h"

namespace {

/// The log-probs of one row's candidates. Throws RowError where one is not finite.
std::vector<float> candidates_of(const Logprobs& logprobs, size_t row, const EncodedQuestion& question) {
  const float* first = logprobs.values.data() + static_cast<int64_t>(row) * logprobs.num_candidates;
  std::vector<float> values(first, first + question.ending_ids.size());
  std::unordered_map<std::string_view, float> by_ending;
  for (size_t k = 0; k < values.size(); ++k) {
    if (!std::isfinite(values[k])) throw RowError("the log-prob of candidate " + std::to_string(k) + " is not finite");
    // Where a branch lies moves its last digits; equal endings must tie all the same.
    const std::vector<int64_t>& ids = question.ending_ids[k];
    const std::string_view bytes(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof ids[0]);
    values[k] = by_ending.emplace(bytes, values[k]).first->second;
  }
  return values;
}

/// What was computed for a batch; `neutral` and `reference` where they are asked for.
struct Scored {
  Logprobs logprobs;
  std::optional<Logprobs> neutral, reference;
};

Prediction predict(const PreparedQuestion& question, size_t row, const Scored& scored, Score score,
                   const std::string& contract) {
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
  prediction.endings_truncated = question.encoded.endings_truncated;
  prediction.contract = contract;
  return prediction;
}

/// Batches in, lines out.
class BatchScorer {
 public:
  BatchScorer(const std::string& input, std::ostream& log, const PromptEncoder& encoder, Session& model,
              Session* reference, Score score)
      : input_(input), log_(log), encoder_(encoder), model_(model), reference_(reference), score_(score) {}

  /// A line for each question, in order: its prediction or an error record. Throws FatalError where the model is at
  /// fault.
  std::string answer(const Batch& batch) {
    const auto& questions = batch.questions();
    if (!questions[0].error.empty()) return error_record(questions[0], questions[0].error);
    Scored scored;
    try {
      scored = run(batch);
    } catch (const RowError& error) {
      return one_by_one(batch, error.what());
    } catch (const std::bad_alloc&) {
      return one_by_one(batch, kOutOfMemory);
    }
    return predictions(questions, scored);
  }

  Totals totals;

 private:
  Scored run(const Batch& batch) {
    const PackedBatch packed = batch.packed();
    Scored scored{model_.run(packed), std::nullopt, std::nullopt};
    if (score_ == Score::kPmi) scored.neutral = model_.run(batch.packed_after(encoder_.neutral_prompt_ids()));
    if (reference_) scored.reference = reference_->run(packed);
    return scored;
  }

  /// After a run that failed: whose fault it was, only a run of its own tells.
  std::string one_by_one(const Batch& batch, const std::string& error) {
    const auto& questions = batch.questions();
    if (questions.size() == 1) return error_record(questions[0], error);
    std::string lines;
    for (const PreparedQuestion& question : questions) lines += answer(Batch(question));
    return lines;
  }

  std::string predictions(const std::vector<PreparedQuestion>& questions, const Scored& scored) {
    std::string lines;
    for (size_t row = 0; row < questions.size(); ++row) {
      try {
        const Prediction prediction = predict(questions[row], row, scored, score_, encoder_.config().digest);
        lines += prediction.to_json();
        if (!prediction.label) continue;
        ++totals.labelled;
        totals.correct += prediction.choice() == static_cast<size_t>(*prediction.label);
      } catch (const RowError& error) {
        lines += error_record(questions[row], error.what());
      }
    }
    return lines;
  }

  std::string error_record(const PreparedQuestion& question, const std::string& error) {
    ++totals.errors;
    log_ << "error: " << input_ << ":" << question.line << ": " << error << std::endl;
    return error_to_json(question.id, error);
  }

  const std::string& input_;
  std::ostream& log_;
  const PromptEncoder& encoder_;
  Session& model_;
  Session* const reference_;
  const Score score_;
};

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
  BatchScorer scorer(input.name(), log, encoder, model, reference, options.score);
  Prefetcher prefetcher(input, encoder, options.limits);
  while (auto first = prefetcher.next()) {
    Batch batch(std::move(*first));
    const auto fits = [&](const PreparedQuestion& ready) { return batch.accepts(ready, options.batch_tokens); };
    while (auto next = prefetcher.next_if(fits)) batch.add(std::move(*next));
    scorer.totals.questions += batch.questions().size();
    output.write(scorer.answer(batch));
  }
  scorer.totals.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return scorer.totals;
}
