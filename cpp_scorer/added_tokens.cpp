#include "added_tokens.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

void AddedTokens::add(std::string content, uint32_t id) {
  if (content.empty()) throw std::invalid_argument("is empty");
  std::vector<Token>& tokens = by_first_byte_[static_cast<unsigned char>(content[0])];
  const auto same = [&](const Token& token) { return token.content == content; };
  if (std::any_of(tokens.begin(), tokens.end(), same)) throw std::invalid_argument("is there twice");
  const auto place = std::find_if(tokens.begin(), tokens.end(),
                                  [&](const Token& token) { return token.content.size() < content.size(); });
  tokens.insert(place, {std::move(content), id});
}

std::optional<AddedTokens::Match> AddedTokens::find(std::string_view text, size_t from) const {
  for (size_t at = from; at < text.size(); ++at) {
    for (const Token& token : by_first_byte_[static_cast<unsigned char>(text[at])]) {
      if (text.compare(at, token.content.size(), token.content) == 0) {
        return Match{at, at + token.content.size(), token.id};
      }
    }
  }
  return std::nullopt;
}
