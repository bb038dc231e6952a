#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

enum class Score { kSum, kMean, kPmi, kReward };  // kReward: the sum less that under a reference

/// The word for it, on the command line and in predictions.
std::string name_of(Score score);

/// Whether it is the word of a score that a model is asked by alone, sum, mean or pmi; if so, `score` becomes it.
bool is_score(const std::string& name, Score& score);

/// One scored question. Log-probs are always sums; `score` says by what the choice was made.
struct Prediction {
  std::string id;
  std::optional<int64_t> label;
  Score score = Score::kSum;
  std::vector<float> logprobs;
  std::vector<float> neutral_logprobs;              // after the neutral prompt; empty but for kPmi
  std::vector<float> reference_logprobs;            // empty without a reference
  std::vector<int64_t> tokens, bytes;               // of each ending
  int64_t truncated = 0;
  std::vector<int64_t> endings_truncated{};         // empty where no ending was cut
  std::string contract;                             // digest of the prompt contract, where the model names one

  /// The candidate with the largest log-prob, less those it is set against (after the neutral prompt, or under the
  /// reference), by its sum or by its mean over tokens. The first of equals wins. All log-probs must be finite.
  size_t choice() const;

  /// The prediction as one line of JSON, line feed included. Floats round-trip.
  std::string to_json() const;
};

/// The line that stands for a question that could not be scored.
std::string error_to_json(const std::string& id, const std::string& error);
