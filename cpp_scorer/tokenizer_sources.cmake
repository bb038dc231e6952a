set(TOKENIZER_SOURCES added_tokens.cpp bpe.cpp pretokenize.cpp tokenizer.cpp tokenizer_json.cpp unicode.cpp utf8.cpp)
