#include "prediction.h"

#include <array>
#include <charconv>

#include "json.h"

namespace {

/// The shortest text that reads back as the same number.
template <typename Number>
std::string to_text(Number number) {
  std::array<char, 32> buffer;
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number);
  return {buffer.data(), result.ptr};
}

template <typename Number>
std::string to_array(const std::vector<Number>& numbers) {
  std::string text = "[";
  for (const Number number : numbers) text += (text.size() > 1 ? ", " : "") + to_text(number);
  return text + "]";
}

}  // namespace

std::string name_of(Score score) {
  switch (score) {
    case Score::kMean: return "mean";
    case Score::kPmi: return "pmi";
    case Score::kReward: return "reward";
    default: return "sum";
  }
}

bool is_score(const std::string& name, Score& score) {
  for (const Score one : {Score::kSum, Score::kMean, Score::kPmi}) {
    if (name_of(one) != name) continue;
    score = one;
    return true;
  }
  return false;
}

size_t Prediction::choice() const {
  const auto value = [this](size_t k) {
    double sum = logprobs[k];
    for (const auto* against : {&neutral_logprobs, &reference_logprobs}) sum -= against->empty() ? 0.0 : (*against)[k];
    return score == Score::kMean ? sum / static_cast<double>(tokens[k]) : sum;
  };
  size_t best = 0;
  for (size_t k = 1; k < logprobs.size(); ++k) {
    if (value(k) > value(best)) best = k;
  }
  return best;
}

std::string Prediction::to_json() const {
  std::string line = "{\"id\": " + json_quote(id) + ", \"prediction\": " + to_text(choice());
  if (label) line += ", \"label\": " + to_text(*label);
  line += ", \"score\": \"" + name_of(score) + "\"";
  line += ", \"logprobs\": " + to_array(logprobs);
  if (!neutral_logprobs.empty()) line += ", \"neutral_logprobs\": " + to_array(neutral_logprobs);
  if (!reference_logprobs.empty()) line += ", \"reference_logprobs\": " + to_array(reference_logprobs);
  line += ", \"tokens\": " + to_array(tokens) + ", \"bytes\": " + to_array(bytes);
  line += ", \"truncated\": " + to_text(truncated);
  if (!endings_truncated.empty()) line += ", \"endings_truncated\": " + to_array(endings_truncated);
  if (!contract.empty()) line += ", \"contract\": " + json_quote(contract);
  return line + "}\n";
}

std::string error_to_json(const std::string& id, const std::string& error) {
  return "{\"id\": " + json_quote(id) + ", \"error\": " + json_quote(error) + "}\n";
}
