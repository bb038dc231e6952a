#pragma once

#include <cstdint>
#include <vector>

#include "question.h"

/// Of rows, see below.
inline constexpr int64_t kShortestLength = 8;

/// Questions as rows in which every candidate branches off one prompt; the inputs of the ONNX graph, row-major.
///
///   tokens     p0 p1 ... pn  a0 a1 a2  b0 b1  c0 c1 c2 c3
///   position   0  1  ... n   n+1 ...   n+1 .. n+1 ...          every branch restarts after the prompt
///   segment    0  0  ... 0   1  1  1   2  2   3  3  3  3       0 = prompt, k = candidate k, -1 = padding
///   scored     row n predicts a0, b0 and c0; row a0 predicts a1; ...
///
/// On a CPU a row's log-probs are the same to the last bit in any batch, which takes one rounding: L is 8 or more,
/// since onnxruntime multiplies a matrix of one row, such as a quarter of a shorter L, in another order.
struct PackedBatch {
  int64_t num_rows = 0;    // B, questions
  int64_t length = 0;      // L, tokens of the longest row, at least 8
  int64_t num_scored = 0;  // N, scored tokens of the row that has most
  std::vector<int64_t> input_ids, position_ids, segment_ids;  // [B, L]; padding 0, 0 and -1
  std::vector<int64_t> pred_index, target_ids, cand_index;    // [B, N]; padding -1
};

/// One row a question, right-padded.
PackedBatch pack(const std::vector<const EncodedQuestion*>& questions);
