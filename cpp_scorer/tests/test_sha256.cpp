// FIPS 180-4's examples, and the same bytes fed in pieces.

#include "check.h"
#include "errors.h"
#include "sha256.h"

namespace {

std::string sha256(const std::string& text, size_t piece) {
  Sha256 hash;
  for (size_t i = 0; i < text.size(); i += piece) hash.update(std::string_view(text).substr(i, piece));
  return hash.hex_digest();
}

}  // namespace

int main() {
  for (const size_t piece : {1, 7, 64, 1000000}) {
    CHECK_EQUAL(sha256("", piece), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK_EQUAL(sha256("abc", piece), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_EQUAL(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", piece),
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK_EQUAL(sha256(std::string(1000000, 'a'), piece),
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
  CHECK_THROWS(sha256_of_file("/no/such/file"), FatalError, "/no/such/file: cannot be read");
  CHECK_THROWS(sha256_of_file("/"), FatalError, "cannot be read");
}
