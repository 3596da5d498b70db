/* The CPU kernels of kernels.py as single passes over memory, FP32, one thread; native.py compiles and binds them.

   A tiny model's step on CPU is bound by memory traffic: written in torch operations, a norm reads and writes its input
   seven times. Loops are plain, for the compiler to vectorise; only the small matrix products of attention are tiled by
   hand. No operation depends on the address or on the number of threads: the same input gives the same bits. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef long long i64;
typedef float v8 __attribute__((vector_size(32), aligned(4)));

/* exp within 2 ulp, in a form that vectorises: 2^n * p(r), with |r| <= ln 2 / 2; NaN stays NaN. */
static inline float exp_(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, x)); /* as calls, which the compiler may not reorder */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int i; float f; } two = {((int)n + 127) << 23};
    return p * two.f;
}

/* Rows of x begin `stride` numbers apart. */
void rms_norm(i64 n, i64 d, i64 stride, float eps, const float *x, const float *w, float *y, float *scale) {
    for (i64 t = 0; t < n; t++, x += stride, y += d) {
        float sum = 0;
        for (i64 i = 0; i < d; i++) sum += x[i] * x[i];
        const float s = scale[t] = 1.0f / sqrtf(sum / d + eps);
        for (i64 i = 0; i < d; i++) y[i] = x[i] * s * w[i];
    }
}

/* dx = s (w g) - x s^3 mean(w x g), plus the gradient of the residual branch where there is one; dw is added to. */
void rms_norm_backward(i64 n, i64 d, i64 stride, const float *x, const float *w, const float *scale, const float *g,
                       const float *residual, float *dx, float *restrict dw) {
    for (i64 t = 0; t < n; t++, x += stride, g += d, dx += d) {
        const float s = scale[t];
        float sum = 0;
        for (i64 i = 0; i < d; i++) {
            const float xg = x[i] * g[i];
            sum += w[i] * xg;
            dw[i] += s * xg;
        }
        const float c = s * s * s * (sum / d);
        if (residual) {
            for (i64 i = 0; i < d; i++) dx[i] = g[i] * w[i] * s - x[i] * c + residual[i];
            residual += d;
        } else {
            for (i64 i = 0; i < d; i++) dx[i] = g[i] * w[i] * s - x[i] * c;
        }
    }
}

/* silu(gate) * up * p of rows [gate; up]; p is a factor of the row, or absent. */
void swiglu(i64 n, i64 d, const float *gate_up, const float *p, float *out) {
    for (i64 t = 0; t < n; t++, gate_up += 2 * d, out += d) {
        const float f = p ? p[t] : 1.0f;
        for (i64 i = 0; i < d; i++) out[i] = gate_up[i] / (1.0f + exp_(-gate_up[i])) * gate_up[d + i] * f;
    }
}

/* Also writes again what swiglu gave (inner), which the weight gradient after it needs. */
void swiglu_backward(i64 n, i64 d, const float *gate_up, const float *p, const float *g, float *d_gate_up, float *dp,
                     float *inner) {
    for (i64 t = 0; t < n; t++, gate_up += 2 * d, d_gate_up += 2 * d, g += d) {
        const float f = p ? p[t] : 1.0f;
        float sum = 0;
        for (i64 i = 0; i < d; i++) {
            const float a = gate_up[i], up = gate_up[d + i], sig = 1.0f / (1.0f + exp_(-a)), silu = a * sig;
            sum += g[i] * silu * up;
            if (inner) inner[i] = silu * up * f;
            d_gate_up[i] = g[i] * f * up * (sig + silu * (1.0f - sig));
            d_gate_up[d + i] = g[i] * f * silu;
        }
        if (dp) dp[t] = sum;
        if (inner) inner += d;
    }
}

/* Interleaved pairs [d] into halves [d], turned by the angle of their position; back: the transpose. */
static inline void turn(i64 half, const float *in, const float *c, const float *s, float *out) {
    for (i64 i = 0; i < half; i++) {
        const float a = in[2 * i], b = in[2 * i + 1];
        out[i] = a * c[i] - b * s[i];
        out[half + i] = b * c[i] + a * s[i];
    }
}

static inline void turn_back(i64 half, const float *in, const float *c, const float *s, float *out) {
    for (i64 i = 0; i < half; i++) {
        const float a = in[i], b = in[half + i];
        out[2 * i] = a * c[i] + b * s[i];
        out[2 * i + 1] = b * c[i] - a * s[i];
    }
}

/* rows = batch * heads of each of seq positions: the first nope numbers stay, the 2 * half after them turn. */
void rope_q(i64 seq, i64 rows, i64 nope, i64 half, const float *q, const float *c, const float *s, i64 table, int back,
            float *out) {
    const i64 d = nope + 2 * half;
    for (i64 t = 0; t < seq; t++, c += table, s += table)
        for (i64 r = 0; r < rows; r++, q += d, out += d) {
            memcpy(out, q, nope * sizeof(float));
            (back ? turn_back : turn)(half, q + nope, c, s, out + nope);
        }
}

/* kv [seq, batch, heads, nope + v], rope [seq, batch, 2 half] (a row each `stride` numbers) -> key, value. */
void rope_kv(i64 seq, i64 batch, i64 heads, i64 nope, i64 half, i64 v, const float *kv, const float *rope, i64 stride,
             const float *c, const float *s, i64 table, float *key, float *value) {
    const i64 d = nope + 2 * half;
    for (i64 t = 0; t < seq; t++, c += table, s += table)
        for (i64 b = 0; b < batch; b++, rope += stride) {
            const float *turned = key + nope;
            turn(half, rope, c, s, key + nope);
            for (i64 h = 0; h < heads; h++, kv += nope + v, key += d, value += v) {
                memcpy(key, kv, nope * sizeof(float));
                memcpy(value, kv + nope, v * sizeof(float));
                if (h) memcpy(key + nope, turned, 2 * half * sizeof(float));
            }
        }
}

void rope_kv_backward(i64 seq, i64 batch, i64 heads, i64 nope, i64 half, i64 v, const float *d_key,
                      const float *d_value, const float *c, const float *s, i64 table, float *d_kv, float *d_rope) {
    const i64 d = nope + 2 * half;
    float *sum = malloc(2 * half * sizeof(float));
    for (i64 t = 0; t < seq; t++, c += table, s += table)
        for (i64 b = 0; b < batch; b++, d_rope += 2 * half) {
            memset(sum, 0, 2 * half * sizeof(float));
            for (i64 h = 0; h < heads; h++, d_kv += nope + v, d_key += d, d_value += v) {
                memcpy(d_kv, d_key, nope * sizeof(float));
                memcpy(d_kv + nope, d_value, v * sizeof(float));
                for (i64 i = 0; i < 2 * half; i++) sum[i] += d_key[nope + i];
            }
            turn_back(half, sum, c, s, d_rope);
        }
    free(sum);
}

/* loss = log sum exp(logits) - logits[target], and the log of the sum. */
void cross_entropy(i64 n, i64 vocab, const float *logits, const i64 *target, float *loss, float *log_sum) {
    for (i64 t = 0; t < n; t++, logits += vocab) {
        float top = logits[0], sum = 0;
        for (i64 i = 1; i < vocab; i++) top = logits[i] > top ? logits[i] : top;
        for (i64 i = 0; i < vocab; i++) sum += exp_(logits[i] - top);
        log_sum[t] = top + logf(sum);
        loss[t] = log_sum[t] - logits[target[t]];
    }
}

void cross_entropy_backward(i64 n, i64 vocab, const float *logits, const i64 *target, const float *log_sum,
                            const float *g, float *d_logits) {
    for (i64 t = 0; t < n; t++, logits += vocab, d_logits += vocab) {
        const float f = g[t], z = log_sum[t];
        for (i64 i = 0; i < vocab; i++) d_logits[i] = f * exp_(logits[i] - z);
        d_logits[target[t]] -= f;
    }
}

/* Sigmoid scores of n tokens for e experts; the k with the largest score + bias (the first of equals) are chosen, and
   weighed by their share of the chosen scores' sum, times a factor. With `every`, shares are of the sum over all
   experts and all are weighed. probs [n, e], zero for who is not weighed; chosen [n, e]. */
void route(i64 n, i64 e, i64 k, i64 every, float factor, const float *logits, const float *bias, float *scores,
           float *probs, unsigned char *chosen) {
    for (i64 t = 0; t < n; t++, logits += e, scores += e, probs += e, chosen += e) {
        float sum = 0;
        for (i64 i = 0; i < e; i++) scores[i] = 1.0f / (1.0f + exp_(-logits[i])), chosen[i] = 0;
        for (i64 j = 0; j < k; j++) {
            i64 best = -1;
            float top = 0;
            for (i64 i = 0; i < e; i++) {
                const float value = scores[i] + (bias ? bias[i] : 0);
                /* A NaN counts as the largest, as in torch. */
                if (!chosen[i] && (best < 0 || (top == top && !(value <= top)))) best = i, top = value;
            }
            chosen[best] = 1;
        }
        for (i64 i = 0; i < e; i++) sum += every || chosen[i] ? scores[i] : 0;
        for (i64 i = 0; i < e; i++) probs[i] = every || chosen[i] ? scores[i] / (sum + 1e-20f) * factor : 0;
    }
}

void route_backward(i64 n, i64 e, i64 every, float factor, const float *scores, const unsigned char *chosen,
                    const float *g, float *d_logits) {
    for (i64 t = 0; t < n; t++, scores += e, chosen += e, g += e, d_logits += e) {
        float sum = 0, dot = 0;
        for (i64 i = 0; i < e; i++)
            if (every || chosen[i]) sum += scores[i], dot += g[i] * scores[i];
        for (i64 i = 0; i < e; i++) {
            const float s = scores[i], d = factor * (g[i] - dot / sum) / sum;
            d_logits[i] = every || chosen[i] ? d * s * (1.0f - s) : 0;
        }
    }
}

/* C [m, n] = A [m, k] B [k, n]; A by strides, n a multiple of 8. Tiles of R rows by 8 W columns live in registers. */
static inline __attribute__((always_inline)) void tile(const int R, const int W, i64 k, const float *a, i64 ar, i64 ac,
                                                       const float *b, i64 ldb, float *c, i64 ldc) {
    v8 sum[4][2];
    for (int i = 0; i < R; i++)
        for (int j = 0; j < W; j++) sum[i][j] = (v8){0};
    for (i64 p = 0; p < k; p++)
        for (int i = 0; i < R; i++)
            for (int j = 0; j < W; j++) sum[i][j] += a[i * ar + p * ac] * *(const v8 *)(b + p * ldb + 8 * j);
    for (int i = 0; i < R; i++)
        for (int j = 0; j < W; j++) *(v8 *)(c + i * ldc + 8 * j) = sum[i][j];
}

static void rows4(i64 m, i64 n, i64 k, const float *a, i64 ar, i64 ac, const float *b, i64 ldb, float *c, i64 ldc) {
    i64 j = 0;
    for (; j + 16 <= n; j += 16) {
        if (m == 4) tile(4, 2, k, a, ar, ac, b + j, ldb, c + j, ldc);
        else for (i64 i = 0; i < m; i++) tile(1, 2, k, a + i * ar, ar, ac, b + j, ldb, c + i * ldc + j, ldc);
    }
    if (j < n) for (i64 i = 0; i < m; i++) tile(1, 1, k, a + i * ar, ar, ac, b + j, ldb, c + i * ldc + j, ldc);
}

static inline i64 up8(i64 n) { return (n + 7) / 8 * 8; }
static inline i64 min(i64 a, i64 b) { return a < b ? a : b; }

/* One head of one row, gathered from [seq, stride] into [seq, up8(d)] (rows) or [d, up8(seq)] (columns). */
static void rows(i64 seq, i64 d, const float *x, i64 stride, float *out) {
    for (i64 t = 0; t < seq; t++) memcpy(out + t * up8(d), x + t * stride, d * sizeof(float));
}
static void columns(i64 seq, i64 d, const float *x, i64 stride, float *out) {
    for (i64 t = 0; t < seq; t++)
        for (i64 i = 0; i < d; i++) out[i * up8(seq) + t] = x[t * stride + i];
}
static void scatter(i64 seq, i64 d, const float *x, float *out, i64 stride) {
    for (i64 t = 0; t < seq; t++) memcpy(out + t * stride, x + t * up8(d), d * sizeof(float));
}

/* Causal softmax attention. q, k [seq, heads, d], v, out [seq, heads, dv], log_sum [heads, seq]; heads = batch * heads.
   Only the lower triangle is computed, by blocks of four queries. */
void attention(i64 seq, i64 heads, i64 d, i64 dv, float scale, const float *q, const float *k, const float *v,
               float *out, float *log_sum) {
    const i64 s8 = up8(seq), dv8 = up8(dv);
    float *kt = calloc(d * s8 + seq * dv8 + 4 * s8 + 4 * dv8, sizeof(float));
    float *vr = kt + d * s8, *p = vr + seq * dv8, *o = p + 4 * s8;
    for (i64 h = 0; h < heads; h++, log_sum += seq) {
        columns(seq, d, k + h * d, heads * d, kt);
        rows(seq, dv, v + h * dv, heads * dv, vr);
        for (i64 i0 = 0; i0 < seq; i0 += 4) {
            const i64 m = min(4, seq - i0), seen = i0 + m;
            rows4(m, up8(seen), d, q + (i0 * heads + h) * d, heads * d, 1, kt, s8, p, s8);
            for (i64 i = 0; i < m; i++) {
                float *row = p + i * s8, top = row[0], sum = 0;
                for (i64 j = 1; j <= i0 + i; j++) top = row[j] > top ? row[j] : top;
                for (i64 j = 0; j <= i0 + i; j++) sum += row[j] = exp_(scale * (row[j] - top));
                for (i64 j = 0; j <= i0 + i; j++) row[j] /= sum;
                for (i64 j = i0 + i + 1; j < seen; j++) row[j] = 0;
                log_sum[i0 + i] = scale * top + logf(sum);
            }
            rows4(m, dv8, seen, p, s8, 1, vr, dv8, o, dv8);
            scatter(m, dv, o, out + (i0 * heads + h) * dv, heads * dv);
        }
    }
    free(kt);
}

void attention_backward(i64 seq, i64 heads, i64 d, i64 dv, float scale, const float *q, const float *k, const float *v,
                        const float *log_sum, const float *g, float *dq, float *dk, float *dv_) {
    const i64 s8 = up8(seq), d8 = up8(d), dv8 = up8(dv);
    float *qr = calloc(2 * seq * d8 + seq * dv8 + (d + dv) * s8 + 2 * seq * s8 + 4 * (d8 + dv8), sizeof(float));
    float *kr = qr + seq * d8, *gr = kr + seq * d8, *kt = gr + seq * dv8, *vt = kt + d * s8, *p = vt + dv * s8;
    float *ds = p + seq * s8, *block = ds + seq * s8;
    for (i64 h = 0; h < heads; h++, log_sum += seq) {
        rows(seq, d, q + h * d, heads * d, qr);
        rows(seq, d, k + h * d, heads * d, kr);
        rows(seq, dv, g + h * dv, heads * dv, gr);
        columns(seq, d, k + h * d, heads * d, kt);
        columns(seq, dv, v + h * dv, heads * dv, vt);
        for (i64 i0 = 0; i0 < seq; i0 += 4) {
            const i64 m = min(4, seq - i0), seen = i0 + m;
            rows4(m, up8(seen), d, qr + i0 * d8, d8, 1, kt, s8, p + i0 * s8, s8);
            rows4(m, up8(seen), dv, gr + i0 * dv8, dv8, 1, vt, s8, ds + i0 * s8, s8);
            for (i64 i = i0; i < seen; i++) {
                float *pi = p + i * s8, *di = ds + i * s8, sum = 0;
                for (i64 j = 0; j <= i; j++) {
                    pi[j] = exp_(scale * pi[j] - log_sum[i]);
                    sum += pi[j] * di[j];
                }
                for (i64 j = 0; j <= i; j++) di[j] = scale * pi[j] * (di[j] - sum);
                for (i64 j = i + 1; j < seen; j++) pi[j] = di[j] = 0;
            }
            rows4(m, d8, seen, ds + i0 * s8, s8, 1, kr, d8, block, d8);
            scatter(m, d, block, dq + (i0 * heads + h) * d, heads * d);
        }
        for (i64 j0 = 0; j0 < seq; j0 += 4) {
            const i64 m = min(4, seq - j0), left = seq - j0;
            rows4(m, d8, left, ds + j0 * s8 + j0, 1, s8, qr + j0 * d8, d8, block, d8);
            scatter(m, d, block, dk + (j0 * heads + h) * d, heads * d);
            rows4(m, dv8, left, p + j0 * s8 + j0, 1, s8, gr + j0 * dv8, dv8, block, dv8);
            scatter(m, dv, block, dv_ + (j0 * heads + h) * dv, heads * dv);
        }
    }
    free(qr);
}
