// The prediction format, the choice, and the interval.

#include <cmath>
#include <cstdlib>

#include "check.h"
#include "prediction.h"
#include "scorer.h"

namespace {

Prediction prediction(std::vector<float> logprobs, std::vector<int64_t> tokens, Score score = Score::kSum) {
  Prediction made;
  made.id = "t-1";
  made.score = score;
  made.logprobs = std::move(logprobs);
  made.tokens = std::move(tokens);
  made.bytes.assign(made.tokens.size(), 1);
  return made;
}

void choice() {
  CHECK_EQUAL(prediction({-4, -3, -5}, {4, 1, 10}).choice(), size_t{1});
  CHECK_EQUAL(prediction({-4, -3, -5}, {4, 1, 10}, Score::kMean).choice(), size_t{2});
  CHECK_EQUAL(prediction({-4, -3, -3}, {1, 1, 1}).choice(), size_t{1});  // the first of equals
  Prediction against_reference = prediction({-4, -3, -5}, {1, 1, 4});
  against_reference.reference_logprobs = {-5, -3, -7};
  CHECK_EQUAL(against_reference.choice(), size_t{2});
  against_reference.score = Score::kReward;
  CHECK_EQUAL(against_reference.choice(), size_t{2});
  CHECK(against_reference.to_json().find("\"score\": \"reward\"") != std::string::npos);
  against_reference.score = Score::kMean;
  CHECK_EQUAL(against_reference.choice(), size_t{0});
}

void format() {
  Prediction made = prediction({-1.5F, -0.1F}, {3, 2});
  made.bytes = {8, 4};
  CHECK_EQUAL(made.to_json(),
              "{\"id\": \"t-1\", \"prediction\": 1, \"score\": \"sum\", \"logprobs\": [-1.5, -0.1], \"tokens\": [3, 2], "
              "\"bytes\": [8, 4], \"truncated\": 0}\n");
  made.id = "7";
  made.label = 0;
  made.score = Score::kMean;
  made.reference_logprobs = {-3, -0.25F};
  made.truncated = 12;
  made.endings_truncated = {0, 3};
  CHECK_EQUAL(made.to_json(),
              "{\"id\": \"7\", \"prediction\": 0, \"label\": 0, \"score\": \"mean\", \"logprobs\": [-1.5, -0.1], "
              "\"reference_logprobs\": [-3, -0.25], \"tokens\": [3, 2], \"bytes\": [8, 4], \"truncated\": 12, "
              "\"endings_truncated\": [0, 3]}\n");
  CHECK_EQUAL(error_to_json("3", "field \"x\""), "{\"id\": \"3\", \"error\": \"field \\\"x\\\"\"}\n");
}

void floats_round_trip() {
  float value = -1e-30F;
  for (int i = 0; i < 1000; ++i, value *= 1.17F) {
    const std::string line = prediction({value, 0}, {1, 1}).to_json();
    CHECK_EQUAL(std::strtof(line.c_str() + line.find("\"logprobs\": [") + 13, nullptr), value);
  }
}

void interval() {
  // Wilson (1927) by hand: 8 of 10 gives (0.8 + 1.9207/10 +- 1.96 sqrt(0.016 + 3.8415/400)) / 1.38415.
  Totals totals;
  totals.questions = 12;
  totals.errors = 2;
  totals.labelled = 10;
  totals.correct = 8;
  totals.seconds = 4;
  CHECK_EQUAL(totals.summary(Score::kMean), "accuracy (mean): 80.00% [49.02%, 94.33%] 8 of 10, 2.50 questions/s");
}

}  // namespace

int main() {
  choice();
  format();
  floats_round_trip();
  interval();
}
