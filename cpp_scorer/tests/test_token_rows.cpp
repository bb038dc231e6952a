// Token sequences as packed rows: what they share is run once, and each gets back its own log-probs.

#include "token_rows.h"

#include <algorithm>

#include "check.h"

namespace {

using Ids = std::vector<int64_t>;

/// The sequences out of the row, where a token's log-prob is its id.
std::vector<float> found_in(const TokenRow& row, size_t rest) {
  const PackedBatch batch = row.pack();
  return row.logprobs_of(rest, {batch.target_ids.begin(), batch.target_ids.end()});
}

void what_is_shared_is_fed_once() {
  const auto rows = token_rows({{1, 2, 3, 4, 5}, {1, 2, 3, 6}, {1, 2, 3, 4, 5}}, 100);
  CHECK_EQUAL(rows.size(), 1u);
  CHECK_EQUAL(rows[0].shared, (Ids{1, 2, 3}));
  const PackedBatch batch = rows[0].pack();
  CHECK_EQUAL(batch.input_ids, (Ids{1, 2, 3, 4, 4, 0, 0, 0}));  // a branch's last token is not fed; 8 at least
  CHECK_EQUAL(batch.position_ids, (Ids{0, 1, 2, 3, 3, 0, 0, 0}));
  CHECK_EQUAL(batch.segment_ids, (Ids{0, 0, 0, 1, 2, -1, -1, -1}));
  CHECK_EQUAL(batch.target_ids, (Ids{2, 3, 4, 5, 4, 5, 6}));
  CHECK_EQUAL(batch.pred_index, (Ids{0, 1, 2, 3, 2, 4, 2}));
  CHECK_EQUAL(batch.cand_index, (Ids{0, 1, 2, 3, 4, 5, 6}));
}

void every_sequence_gets_its_own_back() {
  const std::vector<Ids> sequences{{7, 8, 9, 1}, {7, 8, 9}, {5}, {7, 8, 9, 2, 3}, {6, 6}, {7, 8, 9, 1}};
  std::vector<std::vector<float>> found(sequences.size());
  for (const TokenRow& row : token_rows(sequences, 100)) {
    for (size_t rest = 0; rest < row.rests.size(); ++rest) found[row.sequences[rest]] = found_in(row, rest);
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    CHECK_EQUAL(found[i], (std::vector<float>{sequences[i].begin() + 1, sequences[i].end()}));
  }
}

void what_saves_little_or_makes_a_row_too_long_stays_apart() {
  CHECK_EQUAL(token_rows({{1, 2, 3, 4, 5}, {1, 2, 6, 7, 8}}, 100).size(), 2u);
  const std::vector<Ids> alike(10, Ids{1, 2, 3, 4});
  CHECK_EQUAL(token_rows(alike, 100).size(), 1u);
  const std::vector<Ids> long_ones{{1, 2, 3, 4}, {1, 2, 3, 5}, {1, 2, 3, 6}};
  for (const TokenRow& row : token_rows(long_ones, 5)) CHECK(row.num_tokens() <= 5);
  CHECK_EQUAL(token_rows(long_ones, 5).size(), 2u);
}

}  // namespace

int main() {
  what_is_shared_is_fed_once();
  every_sequence_gets_its_own_back();
  what_saves_little_or_makes_a_row_too_long_stays_apart();
}
