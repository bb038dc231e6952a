// For the programs built for coverage that do not look at it; those that do have their own (fuzz_main.h).

extern "C" void __sanitizer_cov_trace_pc() {}
