#include "preference.h"

#include <algorithm>
#include <utility>

#include "errors.h"

namespace {

using Messages = std::vector<std::pair<std::string, std::string>>;  // role and content

const Json& value_of(const Json& row, const std::string& field) {
  const auto found = row.find(field);
  if (found == row.end()) throw field_error(field, "is missing");
  return *found;
}

/// A value as messages; `role` is that of a plain string.
Messages messages_of(const std::string& field, const Json& value, const char* role) {
  if (value.is_string()) return {{role, value.get<std::string>()}};
  if (!value.is_array() || value.empty()) {
    throw field_error(field, "is neither a string nor a list of messages with role and content");
  }
  Messages messages;
  for (const Json& message : value) {
    const auto string_of = [&](const char* name) {
      const auto found = message.is_object() ? message.find(name) : message.end();
      if (found == message.end() || !found->is_string()) {
        throw field_error(field, "message " + std::to_string(messages.size()) + " has no role and content that are strings");
      }
      return found->get<std::string>();
    };
    std::string sender = string_of("role");
    messages.emplace_back(std::move(sender), string_of("content"));
  }
  return messages;
}

std::string text_of(const Messages& messages, size_t begin) {
  if (messages.size() == begin + 1) return messages.back().second;
  std::string text;
  for (size_t at = begin; at < messages.size(); ++at) {
    text += (at > begin ? "\n" : "") + messages[at].first + ": " + messages[at].second;
  }
  return text;
}

}  // namespace

Preference preference_of(const Json& row) {
  if (!row.contains("prompt")) {
    throw field_error("prompt", "is missing; chosen and rejected begin with it: split it off, as trl.extract_prompt does");
  }
  const Messages prompt = messages_of("prompt", row["prompt"], "user");
  const Messages chosen = messages_of("chosen", value_of(row, "chosen"), "assistant");
  const Json& rejected = value_of(row, "rejected");
  std::vector<Messages> answers;
  if (rejected.is_array() && !(!rejected.empty() && rejected.front().is_object())) {
    if (rejected.empty()) throw field_error("rejected", "is an empty list; a question needs an answer that was rejected");
    for (const Json& answer : rejected) answers.push_back(messages_of("rejected", answer, "assistant"));
  } else {
    answers.push_back(messages_of("rejected", rejected, "assistant"));
  }
  answers.push_back(chosen);
  Preference made{text_of(prompt, 0), {}};
  for (const Messages& answer : answers) {
    const bool repeats = answer.size() > prompt.size() && std::equal(prompt.begin(), prompt.end(), answer.begin());
    made.answers.push_back(text_of(answer, repeats ? prompt.size() : 0));
  }
  return made;
}
