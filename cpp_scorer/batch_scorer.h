#pragma once

#include <string>
#include <vector>

#include "batch.h"
#include "neutral_cache.h"
#include "prediction.h"
#include "prompt.h"
#include "session.h"

/// What becomes of one question: the line of its prediction, or of its error record.
struct Answer {
  std::string line;   // line feed included
  std::string error;  // what the record says; empty for a prediction
  bool labelled = false, correct = false;
};

/// The record of a row that could not be scored.
Answer error_answer(const std::string& id, const std::string& error);

/// Batches in, answers out: the one way in which the stream, the service and the library score. May be called from
/// several threads.
class BatchScorer {
 public:
  /// `reference` may be null. All three are kept by the caller.
  BatchScorer(const PromptEncoder& encoder, Session& model, Session* reference, Score score)
      : encoder_(encoder), model_(model), reference_(reference), score_(score) {}

  /// An answer for each question, in order. A row at fault, be it that its run fails, gets an error record. Throws
  /// FatalError for a model whose output has another shape.
  std::vector<Answer> answer(const Batch& batch);

 private:
  using Rows = std::vector<std::vector<float>>;  // a row's log-probs

  /// What was computed for a batch; `neutral` and `reference` are empty where they are not asked for.
  struct Scored {
    Rows logprobs, neutral, reference;
  };

  Scored run(const Batch& batch);
  Rows neutral_logprobs(const Batch& batch);
  Answer predict(const PreparedQuestion& question, size_t row, const Scored& scored) const;
  std::vector<Answer> one_by_one(const Batch& batch, const std::string& error);

  const PromptEncoder& encoder_;
  Session& model_;
  Session* const reference_;
  const Score score_;
  NeutralCache neutral_cache_;
};
