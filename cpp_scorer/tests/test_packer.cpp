// The six arrays of the graph, cell by cell.

#include "check.h"
#include "packer.h"

using Ids = std::vector<int64_t>;

int main() {
  const EncodedQuestion first{{10, 11, 12}, {{20, 21, 22}, {30}, {40, 41}}, {1, 1, 1}, 0};
  const EncodedQuestion second{{50}, {{60}, {70, 71}}, {1, 1}, 0};
  CHECK_EQUAL(first.num_tokens(), 6);
  CHECK_EQUAL(second.num_tokens(), 2);

  const PackedBatch batch = pack({&first, &second});
  CHECK_EQUAL(batch.num_rows, 2);
  CHECK_EQUAL(batch.length, 6);
  CHECK_EQUAL(batch.num_scored, 6);
  CHECK_EQUAL(batch.input_ids, (Ids{10, 11, 12, 20, 21, 40, /**/ 50, 70, 0, 0, 0, 0}));
  CHECK_EQUAL(batch.position_ids, (Ids{0, 1, 2, 3, 4, 3, /**/ 0, 1, 0, 0, 0, 0}));
  CHECK_EQUAL(batch.segment_ids, (Ids{0, 0, 0, 1, 1, 3, /**/ 0, 2, -1, -1, -1, -1}));
  CHECK_EQUAL(batch.pred_index, (Ids{2, 3, 4, 2, 2, 5, /**/ 0, 0, 1, -1, -1, -1}));
  CHECK_EQUAL(batch.target_ids, (Ids{20, 21, 22, 30, 40, 41, /**/ 60, 70, 71, -1, -1, -1}));
  CHECK_EQUAL(batch.cand_index, (Ids{0, 0, 0, 1, 2, 2, /**/ 0, 1, 1, -1, -1, -1}));
}
