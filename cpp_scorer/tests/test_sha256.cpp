// FIPS 180-4's examples, and the same bytes fed in pieces, by the processor's own instructions and without them.

#include "check.h"
#include "errors.h"
#include "sha256.h"

namespace {

std::string sha256(const std::string& text, size_t piece, bool hardware) {
  Sha256 hash(hardware);
  for (size_t i = 0; i < text.size(); i += piece) hash.update(std::string_view(text).substr(i, piece));
  return hash.hex_digest();
}

void examples_come_out(size_t piece, bool hardware) {
  CHECK_EQUAL(sha256("", piece, hardware), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK_EQUAL(sha256("abc", piece, hardware), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_EQUAL(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", piece, hardware),
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK_EQUAL(sha256(std::string(1000000, 'a'), piece, hardware),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/// Blocks whose words all differ, in pieces around a block's size.
void both_ways_agree() {
  std::string bytes;
  for (int i = 0; i < 5000; ++i) bytes += static_cast<char>(i * i >> i % 7);
  for (size_t size = 0; size < bytes.size(); size += 61) {
    CHECK_EQUAL(sha256(bytes.substr(0, size), 1 + size % 200, Sha256::in_hardware()),
                sha256(bytes.substr(0, size), 64, false));
  }
}

}  // namespace

int main() {
  for (const size_t piece : {1, 7, 64, 65, 1000000}) {
    examples_come_out(piece, false);
    examples_come_out(piece, Sha256::in_hardware());
  }
  both_ways_agree();
  CHECK_THROWS(sha256_of_file("/no/such/file"), FatalError, "/no/such/file: cannot be read");
  CHECK_THROWS(sha256_of_file("/"), FatalError, "cannot be read");
}
