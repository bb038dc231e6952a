#include "packer.h"

#include <algorithm>

PackedBatch pack(const std::vector<const EncodedQuestion*>& questions) {
  PackedBatch batch;
  batch.length = kShortestLength;
  batch.num_rows = static_cast<int64_t>(questions.size());
  for (const EncodedQuestion* question : questions) {
    batch.length = std::max(batch.length, question->num_tokens());
    batch.num_scored = std::max(batch.num_scored, question->num_scored());
  }
  const auto cells = static_cast<size_t>(batch.num_rows * batch.length);
  const auto scored_cells = static_cast<size_t>(batch.num_rows * batch.num_scored);
  batch.input_ids.assign(cells, 0);
  batch.position_ids.assign(cells, 0);
  batch.segment_ids.assign(cells, -1);
  batch.pred_index.assign(scored_cells, -1);
  batch.target_ids.assign(scored_cells, -1);
  batch.cand_index.assign(scored_cells, -1);

  for (int64_t row = 0; row < batch.num_rows; ++row) {
    const EncodedQuestion& question = *questions[row];
    const auto prompt_length = static_cast<int64_t>(question.prompt_ids.size());
    const int64_t row_begin = row * batch.length;
    int64_t fed = 0, scored = row * batch.num_scored;

    const auto feed = [&](int64_t id, int64_t position, int64_t segment) {
      batch.input_ids[row_begin + fed] = id;
      batch.position_ids[row_begin + fed] = position;
      batch.segment_ids[row_begin + fed] = segment;
      ++fed;
    };
    for (const int64_t id : question.prompt_ids) feed(id, fed, 0);
    for (size_t candidate = 0; candidate < question.ending_ids.size(); ++candidate) {
      const auto& ids = question.ending_ids[candidate];
      for (size_t t = 0; t < ids.size(); ++t) {
        // The prompt's last row predicts the first token; each token of the branch predicts the next.
        batch.pred_index[scored] = t == 0 ? prompt_length - 1 : fed - 1;
        batch.target_ids[scored] = ids[t];
        batch.cand_index[scored] = static_cast<int64_t>(candidate);
        ++scored;
        if (t + 1 < ids.size()) {
          feed(ids[t], prompt_length + static_cast<int64_t>(t), static_cast<int64_t>(candidate) + 1);
        }
      }
    }
  }
  return batch;
}
