// The six arrays of the graph, cell by cell, and which questions share a run.

#include "batch.h"
#include "check.h"
#include "packer.h"

namespace {

using Ids = std::vector<int64_t>;

void cells() {
  const EncodedQuestion first{{10, 11, 12}, {{20, 21, 22}, {30}, {40, 41}}, {1, 1, 1}, 0};
  const EncodedQuestion second{{50}, {{60}, {70, 71}}, {1, 1}, 0};
  CHECK_EQUAL(first.num_tokens(), 6);
  CHECK_EQUAL(second.num_tokens(), 2);
  CHECK_EQUAL(first.num_scored(), 6);

  const PackedBatch batch = pack({&first, &second});
  CHECK_EQUAL(batch.num_rows, 2);
  CHECK_EQUAL(batch.length, 8);
  CHECK_EQUAL(batch.num_scored, 6);
  CHECK_EQUAL(batch.input_ids, (Ids{10, 11, 12, 20, 21, 40, 0, 0, /**/ 50, 70, 0, 0, 0, 0, 0, 0}));
  CHECK_EQUAL(batch.position_ids, (Ids{0, 1, 2, 3, 4, 3, 0, 0, /**/ 0, 1, 0, 0, 0, 0, 0, 0}));
  CHECK_EQUAL(batch.segment_ids, (Ids{0, 0, 0, 1, 1, 3, -1, -1, /**/ 0, 2, -1, -1, -1, -1, -1, -1}));
  CHECK_EQUAL(batch.pred_index, (Ids{2, 3, 4, 2, 2, 5, /**/ 0, 0, 1, -1, -1, -1}));
  CHECK_EQUAL(batch.target_ids, (Ids{20, 21, 22, 30, 40, 41, /**/ 60, 70, 71, -1, -1, -1}));
  CHECK_EQUAL(batch.cand_index, (Ids{0, 0, 0, 1, 2, 2, /**/ 0, 1, 1, -1, -1, -1}));
}

/// A question of `prompt` tokens and `endings` of one token each, which add none to the row.
PreparedQuestion question(size_t prompt, size_t endings = 2) {
  PreparedQuestion made;
  made.encoded = {Ids(prompt, 1), std::vector<Ids>(endings, Ids{2}), Ids(endings, 1), 0};
  return made;
}

void a_batch_takes_what_fits() {
  Batch batch(question(100));
  CHECK(batch.accepts(question(100), 200));
  CHECK(!batch.accepts(question(100), 199));
  // Padding of a fifth of the longer row is a tenth of the two.
  CHECK(batch.accepts(question(80), 1000) && !batch.accepts(question(79), 1000));
  CHECK(batch.accepts(question(125), 1000) && !batch.accepts(question(126), 1000));
  batch.add(question(80));
  CHECK(batch.accepts(question(90), 1000) && !batch.accepts(question(89), 1000));
  CHECK(batch.accepts(question(100), 300) && !batch.accepts(question(100), 299));
  CHECK_EQUAL(batch.packed().length, 100);
}

void a_row_at_fault_stands_alone() {
  PreparedQuestion broken;
  broken.error = "broken";
  CHECK(!Batch(question(10)).accepts(broken, 1000));
  CHECK(!Batch(broken).accepts(question(10), 1000));
  CHECK(!Batch(broken).accepts(broken, 1000));
}

}  // namespace

int main() {
  cells();
  a_batch_takes_what_fits();
  a_row_at_fault_stands_alone();
}
