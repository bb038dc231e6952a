#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dispatcher.h"
#include "packer.h"

/// Token sequences that begin alike, as one packed row: what they share is run once, and the rest of each branches off
/// it. Every token but the first is scored, as a candidate of its own.
struct TokenRow {
  std::vector<int64_t> shared;               // at least one token
  std::vector<std::vector<int64_t>> rests;   // may be empty
  std::vector<size_t> sequences;             // which of the sequences each rest is of

  int64_t num_tokens() const;
  PackedBatch pack() const;

  /// The log-probs of one of its sequences, but for the first token, out of those of the row.
  std::vector<float> logprobs_of(size_t rest, const std::vector<float>& row) const;
};

/// Puts sequences, none of which is empty, together where that saves at least half of one, and the row has no more than
/// `most_tokens`.
std::vector<TokenRow> token_rows(const std::vector<std::vector<int64_t>>& sequences, int64_t most_tokens);

/// The log-probs of the tokens of every sequence, but for its first, and whether they were there by the deadline.
struct TokenLogprobs {
  Dispatcher::Outcome outcome;
  std::vector<std::vector<float>> of_sequences;
};
TokenLogprobs token_logprobs(const std::vector<std::vector<int64_t>>& sequences, int64_t most_tokens,
                             Dispatcher& dispatcher, Dispatcher::Clock::time_point deadline);
