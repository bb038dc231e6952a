#include "batch_scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "errors.h"

namespace {

std::vector<std::vector<float>> rows_of(const Logprobs& logprobs, const std::vector<PreparedQuestion>& questions) {
  std::vector<std::vector<float>> rows;
  const float* first = logprobs.values.data();
  for (const PreparedQuestion& question : questions) {
    rows.emplace_back(first, first + question.encoded.ending_ids.size());
    first += logprobs.num_candidates;
  }
  return rows;
}

/// The log-probs of one row's candidates. Throws RowError where one is not finite.
std::vector<float> candidates_of(std::vector<float> values, const EncodedQuestion& question) {
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

}  // namespace

Answer error_answer(const std::string& id, const std::string& error) {
  Answer answer;
  answer.line = error_to_json(id, error);
  answer.error = error;
  return answer;
}

std::vector<Answer> BatchScorer::answer(const Batch& batch) {
  const auto& questions = batch.questions();
  if (!questions[0].error.empty()) return {error_answer(questions[0].id, questions[0].error)};
  Scored scored;
  try {
    scored = run(batch);
  } catch (const RowError& error) {
    return one_by_one(batch, error.what());
  } catch (const std::bad_alloc&) {
    return one_by_one(batch, kOutOfMemory);
  }
  std::vector<Answer> answers;
  for (size_t row = 0; row < questions.size(); ++row) {
    try {
      answers.push_back(predict(questions[row], row, scored));
    } catch (const RowError& error) {
      answers.push_back(error_answer(questions[row].id, error.what()));
    }
  }
  return answers;
}

BatchScorer::Scored BatchScorer::run(const Batch& batch) {
  const PackedBatch packed = batch.packed();
  Scored scored;
  scored.logprobs = rows_of(model_.run(packed), batch.questions());
  if (score_ == Score::kPmi) scored.neutral = neutral_logprobs(batch);
  if (reference_) scored.reference = rows_of(reference_->run(packed), batch.questions());
  return scored;
}

/// Runs only those rows whose endings the cache does not know, those of like lengths together: their prompts being one
/// and the same, they differ more than the questions of a batch do.
BatchScorer::Rows BatchScorer::neutral_logprobs(const Batch& batch) {
  Rows rows;
  std::vector<std::pair<PreparedQuestion, size_t>> unknown;  // with their places in the batch
  for (const PreparedQuestion& question : batch.questions()) {
    const auto& ending_ids = question.encoded.ending_ids;
    auto known = neutral_cache_.find(ending_ids);
    rows.push_back(known.value_or(std::vector<float>()));
    if (known) continue;
    PreparedQuestion neutral;
    neutral.encoded = {encoder_.neutral_prompt_ids(), ending_ids, {}, 0};
    unknown.emplace_back(std::move(neutral), rows.size() - 1);
  }
  std::stable_sort(unknown.begin(), unknown.end(), [](const auto& one, const auto& other) {
    return one.first.encoded.num_tokens() < other.first.encoded.num_tokens();
  });
  for (size_t begin = 0, end; begin < unknown.size(); begin = end) {
    Batch alike(unknown[begin].first);
    for (end = begin + 1; end < unknown.size(); ++end) {
      if (!alike.accepts(unknown[end].first, std::numeric_limits<int64_t>::max())) break;
      alike.add(unknown[end].first);
    }
    const auto computed = rows_of(model_.run(alike.packed()), alike.questions());
    for (size_t row = 0; row < computed.size(); ++row) {
      neutral_cache_.store(alike.questions()[row].encoded.ending_ids, computed[row]);
      rows[unknown[begin + row].second] = computed[row];
    }
  }
  return rows;
}

/// After a run that failed: whose fault it was, only a run of its own tells.
std::vector<Answer> BatchScorer::one_by_one(const Batch& batch, const std::string& error) {
  const auto& questions = batch.questions();
  if (questions.size() == 1) return {error_answer(questions[0].id, error)};
  std::vector<Answer> answers;
  for (const PreparedQuestion& question : questions) answers.push_back(answer(Batch(question))[0]);
  return answers;
}

Answer BatchScorer::predict(const PreparedQuestion& question, size_t row, const Scored& scored) const {
  Prediction prediction;
  prediction.id = question.id;
  prediction.label = question.label;
  prediction.score = score_;
  prediction.logprobs = candidates_of(scored.logprobs[row], question.encoded);
  if (!scored.neutral.empty()) prediction.neutral_logprobs = candidates_of(scored.neutral[row], question.encoded);
  if (!scored.reference.empty()) prediction.reference_logprobs = candidates_of(scored.reference[row], question.encoded);
  for (const auto& ids : question.encoded.ending_ids) prediction.tokens.push_back(static_cast<int64_t>(ids.size()));
  prediction.bytes = question.encoded.ending_bytes;
  prediction.truncated = question.encoded.truncated;
  prediction.endings_truncated = question.encoded.endings_truncated;
  prediction.contract = encoder_.config().digest;
  Answer answer;
  answer.line = prediction.to_json();
  answer.labelled = prediction.label.has_value();
  answer.correct = answer.labelled && prediction.choice() == static_cast<size_t>(*prediction.label);
  return answer;
}
