// What Rust calls (`../native.rs` declares the same). Every function that can
// fail returns 0 or leaves a message for `roundhouse_last_error`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mlx/c/array.h"

extern "C" {

// The message of the last failure in this thread. Valid until the next one.
const char* roundhouse_last_error();

// Loads OpenBLAS and sets how many threads a product may use (at least 1).
int roundhouse_prepare(int threads);

// Makes products use one instruction set: 0 portable, 1 AVX2, 2 AVX-512. Fails
// where the processor lacks it. Without it, the best is used.
int roundhouse_use_instructions(int instructions);

// x [..., K] float32 times the transpose of a matrix [N, K] in MLX's affine
// quantisation: packed words, and scales and biases [N, K / group_size].
int roundhouse_quantized_matmul(
    mlx_array* result, mlx_array x, mlx_array packed, mlx_array scales,
    mlx_array biases, int group_size, int bits);

// x [..., K] float32 times the transpose of w [N, K] float32, float16 or bfloat16.
int roundhouse_dense_matmul(mlx_array* result, mlx_array x, mlx_array w);

// x [..., K] float32, each row divided by its root mean square, times weight [K].
int roundhouse_rms_norm(
    mlx_array* result, mlx_array x, mlx_array weight, float epsilon);

// gate · sigmoid(gate) · up, float32 of one shape.
int roundhouse_swiglu(mlx_array* result, mlx_array gate, mlx_array up);

// x [rows, heads, size] float32 with the pairs of each head turned by the angles
// whose cosines and sines are [rows, 1, turned / 2]. Pairs are neighbours if
// `neighbours` is not 0, else the halves of the first `turned` numbers.
int roundhouse_rotate(
    mlx_array* result, mlx_array x, mlx_array cosines, mlx_array sines,
    int neighbours);

// Attention of the last rows of a sequence: queries [rows, heads, size], keys and
// values [key heads, tokens, size], all float32. `window` and `cap` may be 0, `sinks`
// [heads] null; see `Attention`. Gives [rows, heads · size].
int roundhouse_attention(
    mlx_array* result, mlx_array queries, mlx_array keys, mlx_array values,
    float scale, int window, float cap, const mlx_array* sinks);

// The same over keys and values in MLX's affine quantisation: `held` are words,
// scales and biases of the keys, then those of the values, each [key heads,
// tokens, …] and the scales and biases float32. Bits are 4 or 8.
int roundhouse_packed_attention(
    mlx_array* result, mlx_array queries, const mlx_array* held, int group_size,
    int bits, float scale, int window, float cap, const mlx_array* sinks);

// Several operations on the same rows as one node. A chain begins with x [rows,
// width] float32, its numbers 0 (null on failure); each step gives the place `to` of
// new numbers of as many rows. Shapes are those of the operations above, with heads
// side by side in a row.
void* roundhouse_chain_open(mlx_array x);
int roundhouse_chain_packed_product(
    void* chain, int* to, int x, mlx_array words, mlx_array scales,
    mlx_array biases, int group_size, int bits);
int roundhouse_chain_dense_product(void* chain, int* to, int x, mlx_array w);
// The bias, float32 [width], added to each row.
int roundhouse_chain_shift(void* chain, int* to, int x, mlx_array bias);
int roundhouse_chain_sum(void* chain, int* to, int left, int right);
int roundhouse_chain_scaled(void* chain, int* to, int x, float factor);
int roundhouse_chain_columns(void* chain, int* to, int x, int first, int last);
// Each run of a row that is as long as the weight by itself.
int roundhouse_chain_rms_norm(
    void* chain, int* to, int x, mlx_array weight, float epsilon);
int roundhouse_chain_swiglu(void* chain, int* to, int gate, int up);
int roundhouse_chain_rotate(
    void* chain, int* to, int x, int heads, mlx_array cosines,
    mlx_array sines, int neighbours);
// Attention of several sequences, of which each has so many of the rows, in order,
// and has had so many tokens `before`. `caches` are keys and values of each, float32
// [key heads, room, size]: the new ones are written behind those before.
int roundhouse_chain_attention(
    void* chain, int* to, int queries, int keys, int values, int size,
    float scale, int window, float cap, const mlx_array* sinks,
    int sequences, const int* rows, const int* before,
    const mlx_array* caches);
// The node: the numbers that come out, and each of the caches in the order in which
// they went in, as they are then. One that has no other owner when the node is
// evaluated is written in place. Nothing can be added to the chain afterwards.
int roundhouse_chain_finish(
    void* chain, int numbers, mlx_array* result, mlx_array* caches);
void roundhouse_chain_close(void* chain);

// Rows first..last of each of `count` arrays [heads, room, width], one array behind
// the other: [count, heads, last - first, width]. Copied at once.
int roundhouse_rows_taken(
    mlx_array* result, const mlx_array* kinds, size_t count, int first,
    int last);

// Of each of `count` pieces as above the first `rows` of its array number `kind`, one
// piece behind the other, and zeros: [heads, room, width]. Copied at once.
int roundhouse_rows_joined(
    mlx_array* result, const mlx_array* pieces, const int* rows, size_t count,
    int kind, int room);

// A file in memory, and arrays over parts of it. The arrays keep the mapping.
void* roundhouse_map_open(const char* path);
size_t roundhouse_map_length(const void* map);
int roundhouse_map_array(
    mlx_array* result, const void* map, size_t offset, const int* shape,
    size_t dimensions, mlx_dtype dtype);
void roundhouse_map_close(void* map);
}
