#include "completion.h"

#include <chrono>
#include <cmath>
#include <cstdint>
#include <utility>

#include "errors.h"
#include "json_text.h"

namespace {

bool is_ids(const Json& value) { return value.is_array() && !value.empty() && value[0].is_number(); }

std::vector<int64_t> ids_of(const Json& list) {
  std::vector<int64_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      throw field_error("prompt", "a list holds more than ids");
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

Completion::Prompt prompt_of(const Json& value, const Completion::Encode& encode) {
  Completion::Prompt prompt;
  if (value.is_string()) {
    prompt.text = value.get<std::string>();
    prompt.ids = encode(prompt.text);
  } else if (is_ids(value)) {
    prompt.ids = ids_of(value);
  } else {
    throw field_error("prompt", "is not a string, a list of token ids, or a list of either");
  }
  if (prompt.ids.empty()) throw field_error("prompt", "has no tokens");
  return prompt;
}

bool flag_of(const Json& request, const char* field) {
  const auto found = request.find(field);
  if (found == request.end() || found->is_null()) return false;
  if (!found->is_boolean()) throw field_error(field, "is neither true nor false");
  return found->get<bool>();
}

int64_t number_of(const Json& request, const char* field, int64_t otherwise) {
  const auto found = request.find(field);
  if (found == request.end() || found->is_null()) return otherwise;
  if (!found->is_number_integer()) throw field_error(field, "is not an integer");
  if (found->is_number_unsigned() && found->get<uint64_t>() > INT64_MAX) throw field_error(field, "is too large");
  return found->get<int64_t>();
}

/// A token by its id: a piece of text need not be whole characters.
std::string token_name(int64_t id) { return "token_id:" + std::to_string(id); }

/// The token's log-prob, and what all others have together: whoever asks whether the token is the likeliest gets a yes
/// only where that is certain.
Json alternatives(int64_t id, float logprob) {
  const double others = std::log1p(-std::min(1.0, std::exp(static_cast<double>(logprob))));
  Json found{{token_name(id), logprob}};
  if (std::isfinite(others)) found["all others"] = others;
  return found;
}

}  // namespace

Completion Completion::read(std::string_view json, const Encode& encode, size_t most_prompts) {
  const Json request = parse_json(json);
  if (!request.is_object()) throw RowError("the body is not a JSON object");
  const auto prompt = request.find("prompt");
  if (prompt == request.end()) throw field_error("prompt", "is missing");
  if (!flag_of(request, "echo")) {
    throw field_error("echo", "must be true: this service scores what it is given, and writes nothing");
  }
  if (flag_of(request, "stream")) throw field_error("stream", "must be false");
  if (number_of(request, "n", 1) != 1) throw field_error("n", "must be 1");
  const int64_t more = number_of(request, "max_tokens", 0);
  if (more != 0 && more != 1) {
    throw field_error("max_tokens", "must be 0, or 1 for an empty token: this service writes nothing");
  }
  Completion completion;
  completion.with_logprobs = number_of(request, "logprobs", -1) >= 0;
  completion.with_blank = more == 1;
  if (prompt->is_array() && !is_ids(*prompt)) {
    if (prompt->size() > most_prompts) {
      throw RowError("more than " + std::to_string(most_prompts) + " prompts (--max-rows)");
    }
    for (const Json& one : *prompt) completion.prompts.push_back(prompt_of(one, encode));
    if (completion.prompts.empty()) throw field_error("prompt", "is an empty list");
  } else {
    completion.prompts.push_back(prompt_of(*prompt, encode));
  }
  return completion;
}

std::string Completion::response(const std::vector<std::vector<float>>& logprobs, const std::string& model) const {
  Json choices = Json::array();
  size_t prompt_tokens = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int64_t>& ids = prompts[i].ids;
    prompt_tokens += ids.size();
    Json choice{{"index", i}, {"text", prompts[i].text}, {"finish_reason", "length"}, {"logprobs", nullptr}};
    if (with_logprobs) {
      Json tokens = Json::array(), values = Json::array(), top = Json::array();
      for (size_t t = 0; t < ids.size(); ++t) {
        if (t > 0 && !std::isfinite(logprobs[i][t - 1])) throw RowError("a log-prob is not finite");
        tokens.push_back(token_name(ids[t]));
        values.push_back(t == 0 ? Json() : Json(logprobs[i][t - 1]));  // nothing stands before the first
        top.push_back(t == 0 ? Json() : alternatives(ids[t], logprobs[i][t - 1]));
      }
      if (with_blank) tokens.push_back(""), values.push_back(nullptr), top.push_back(nullptr);
      choice["logprobs"] = {{"tokens", std::move(tokens)}, {"token_logprobs", std::move(values)},
                            {"top_logprobs", std::move(top)}};
    }
    choices.push_back(std::move(choice));
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const Json response{
      {"id", "cmpl-score"}, {"object", "text_completion"}, {"model", model}, {"choices", std::move(choices)},
      {"created", std::chrono::duration_cast<std::chrono::seconds>(now).count()},
      {"usage", {{"prompt_tokens", prompt_tokens}, {"completion_tokens", 0}, {"total_tokens", prompt_tokens}}}};
  return response.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}
