#include "bearer_token.h"

#include <cstdlib>
#include <fstream>

#include "errors.h"
#include "prompt.h"
#include "sha256.h"

namespace {

std::string digest_of(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.hex_digest();
}

}  // namespace

BearerToken::BearerToken(const std::string& file) {
  std::string line;
  if (!file.empty()) {
    std::ifstream stream(file);
    if (!std::getline(stream, line)) throw FatalError(file + ": holds no token that can be read");
  } else if (const char* value = std::getenv("SCORE_TOKEN")) {
    line = value;
  } else {
    return;
  }
  const std::string_view token = strip(line);
  if (token.empty()) throw FatalError((file.empty() ? "SCORE_TOKEN" : file) + ": holds no token, but is blank");
  digest_ = digest_of(token);
}

bool BearerToken::admits(std::string_view authorization) const {
  constexpr std::string_view scheme = "Bearer ";
  const bool has_scheme = authorization.substr(0, scheme.size()) == scheme;
  const std::string given = digest_of(has_scheme ? authorization.substr(scheme.size()) : std::string_view());
  unsigned different = !has_scheme;
  for (size_t i = 0; i < digest_.size(); ++i) different |= static_cast<unsigned char>(given[i] ^ digest_[i]);
  return different == 0;
}
