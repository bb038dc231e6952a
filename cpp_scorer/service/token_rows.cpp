#include "token_rows.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace {

size_t common_prefix(const std::vector<int64_t>& left, const std::vector<int64_t>& right) {
  const auto end = std::mismatch(left.begin(), left.end(), right.begin(), right.end());
  return static_cast<size_t>(end.first - left.begin());
}

}  // namespace

int64_t TokenRow::num_tokens() const {
  size_t count = shared.size();
  for (const auto& rest : rests) count += rest.size();
  return static_cast<int64_t>(count);
}

PackedBatch TokenRow::pack() const {
  PackedBatch batch;
  batch.num_rows = 1;
  const auto feed = [&](int64_t id, size_t position, size_t segment) {
    batch.input_ids.push_back(id);
    batch.position_ids.push_back(static_cast<int64_t>(position));
    batch.segment_ids.push_back(static_cast<int64_t>(segment));
  };
  const auto score = [&](size_t fed, int64_t id) {
    batch.pred_index.push_back(static_cast<int64_t>(fed));
    batch.target_ids.push_back(id);
    batch.cand_index.push_back(batch.num_scored++);
  };
  for (size_t t = 0; t < shared.size(); ++t) {
    feed(shared[t], t, 0);
    if (t > 0) score(t - 1, shared[t]);
  }
  for (size_t k = 0; k < rests.size(); ++k) {
    for (size_t t = 0; t < rests[k].size(); ++t) {
      score(t == 0 ? shared.size() - 1 : batch.input_ids.size() - 1, rests[k][t]);
      if (t + 1 < rests[k].size()) feed(rests[k][t], shared.size() + t, k + 1);
    }
  }
  batch.length = std::max(kShortestLength, static_cast<int64_t>(batch.input_ids.size()));
  batch.input_ids.resize(static_cast<size_t>(batch.length), 0);
  batch.position_ids.resize(static_cast<size_t>(batch.length), 0);
  batch.segment_ids.resize(static_cast<size_t>(batch.length), -1);
  return batch;
}

std::vector<float> TokenRow::logprobs_of(size_t rest, const std::vector<float>& row) const {
  auto end = row.begin() + static_cast<std::ptrdiff_t>(shared.size() - 1);
  std::vector<float> logprobs(row.begin(), end);
  for (size_t k = 0; k < rest; ++k) end += static_cast<std::ptrdiff_t>(rests[k].size());
  logprobs.insert(logprobs.end(), end, end + static_cast<std::ptrdiff_t>(rests[rest].size()));
  return logprobs;
}

std::vector<TokenRow> token_rows(const std::vector<std::vector<int64_t>>& sequences, int64_t most_tokens) {
  std::vector<size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sequences[a] < sequences[b]; });
  std::vector<TokenRow> rows;
  int64_t summed = 0;  // tokens of the last row's sequences, each whole
  for (const size_t index : order) {
    const std::vector<int64_t>& sequence = sequences[index];
    const auto size = static_cast<int64_t>(sequence.size());
    if (!rows.empty()) {
      TokenRow& last = rows.back();
      const size_t shared = common_prefix(last.shared, sequence);
      const auto joined = summed + size - static_cast<int64_t>(last.rests.size() * shared);
      if (2 * shared >= std::max(last.shared.size(), sequence.size()) && joined <= most_tokens) {
        for (auto& rest : last.rests) {
          rest.insert(rest.begin(), last.shared.begin() + static_cast<std::ptrdiff_t>(shared), last.shared.end());
        }
        last.shared.resize(shared);
        last.rests.emplace_back(sequence.begin() + static_cast<std::ptrdiff_t>(shared), sequence.end());
        last.sequences.push_back(index);
        summed += size;
        continue;
      }
    }
    rows.push_back({sequence, {{}}, {index}});
    summed = size;
  }
  return rows;
}

TokenLogprobs token_logprobs(const std::vector<std::vector<int64_t>>& sequences, int64_t most_tokens,
                             Dispatcher& dispatcher, Dispatcher::Clock::time_point deadline) {
  std::vector<TokenRow> rows = token_rows(sequences, most_tokens);
  const auto has_one = [](const TokenRow& row) { return row.num_tokens() == 1; };  // and so nothing to score
  rows.erase(std::remove_if(rows.begin(), rows.end(), has_one), rows.end());
  std::vector<PackedBatch> batches;
  for (const TokenRow& row : rows) batches.push_back(row.pack());
  const auto run = dispatcher.run(std::move(batches), deadline);
  TokenLogprobs found{run.outcome, std::vector<std::vector<float>>(sequences.size())};
  for (size_t row = 0; row < run.logprobs.size(); ++row) {
    for (size_t rest = 0; rest < rows[row].rests.size(); ++rest) {
      found.of_sequences[rows[row].sequences[rest]] = rows[row].logprobs_of(rest, run.logprobs[row].values);
    }
  }
  return found;
}
