/* QuickScorer's look-ups (models/quickscorer.py) in C: score(plan, matrix, out).

   A plan is one block of memory that models/compiled.py lays out: the header below, then the arrays that
   it points to. Tables are cut into blocks of as many trees as fill a cache line, and rows pass block by
   block: what a block of rows touches stays in the cache. Sums run in the order of the trees. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

enum { LAYOUT = 1, LINE = 64, ROWS = 256, LONG = 1024 };  /* of plans; bytes of a cache line; rows of a block; rows that are worth letting other threads run */

typedef struct {
    int64_t layout, bytes, trees, outputs, leaves, word, columns, lookups, parts, bins;
    int64_t part_at, start_at, cut_at, value_at, table_at;  /* in bytes from the plan's begin */
} Plan;

typedef struct {
    int64_t column, lookup, bins, cut;  /* the first of its bins - 1 cuts, the last of which is infinity */
} Part;

/* The number of cuts below x, which is how NumPy's searchsorted places it; a missing number comes last. */
static inline int64_t place_of(const double *cuts, int64_t count, double x)
{
    const double *at = cuts;
    int64_t left = count;
    if (x != x)
        return count;
    while (left > 1) {
        int64_t half = left >> 1;
        at += half & -(int64_t)(at[half - 1] < x);  /* no branch, which could not be foretold */
        left -= half;
    }
    return at - cuts + (*at < x);
}

static void places_of(const Plan *plan, const char *matrix, Py_ssize_t down, Py_ssize_t across, Py_ssize_t rows, int32_t *places)
{
    const Part *parts = (const Part *)((const char *)plan + plan->part_at);
    const double *cuts = (const double *)((const char *)plan + plan->cut_at);
    memset(places, 0, (size_t)rows * plan->lookups * sizeof *places);
    for (const Part *part = parts; part < parts + plan->parts; part++) {
        const char *x = matrix + part->column * across;
        int32_t *place = places + part->lookup;
        for (Py_ssize_t i = 0; i < rows; i++, x += down, place += plan->lookups) {
            double value;
            memcpy(&value, x, sizeof value);  /* the numbers of a request's bytes need not be aligned */
            *place = *place * (int32_t)part->bins + (int32_t)place_of(cuts + part->cut, part->bins - 1, value);
        }
    }
}

/* What the bins of rows leave open, tree by tree, and the values of the lowest leaves, summed. */
#define SUMS(name, word, lowest)                                                                                          \
    typedef word name##_line __attribute__((vector_size(LINE), aligned(LINE), may_alias));                                \
    FOR_EACH_PROCESSOR static void name(const Plan *plan, const int32_t *places, Py_ssize_t rows, double *out)            \
    {                                                                                                                     \
        enum { WORDS = LINE / sizeof(word) };                                                                             \
        const int64_t *start = (const int64_t *)((const char *)plan + plan->start_at);                                    \
        const name##_line *table = (const name##_line *)((const char *)plan + plan->table_at);                            \
        const double *values = (const double *)((const char *)plan + plan->value_at);                                     \
        const int64_t outputs = plan->outputs, leaves = plan->leaves, lookups = plan->lookups;                            \
        for (int64_t tree = 0; tree < plan->trees; tree += WORDS, table += plan->bins, values += WORDS * leaves) {        \
            const int many = plan->trees - tree < WORDS ? (int)(plan->trees - tree) : WORDS;                              \
            const int32_t *place = places;                                                                                \
            for (Py_ssize_t i = 0; i < rows; i++, place += lookups) {                                                     \
                word open[WORDS];                                                                                         \
                name##_line all = table[start[0] + place[0]];                                                             \
                for (int64_t k = 1; k < lookups; k++)                                                                     \
                    all &= table[start[k] + place[k]];                                                                    \
                memcpy(open, &all, sizeof open);                                                                          \
                if (outputs == 1 && many == WORDS) {                                                                      \
                    double sum = out[i];                                                                                  \
                    for (int k = 0; k < WORDS; k++)                                                                       \
                        sum += values[k * leaves + lowest(open[k])];                                                      \
                    out[i] = sum;                                                                                         \
                } else {                                                                                                  \
                    for (int k = 0; k < many; k++)                                                                        \
                        out[i * outputs + (tree + k) % outputs] += values[k * leaves + lowest(open[k])];                  \
                }                                                                                                         \
            }                                                                                                             \
        }                                                                                                                 \
    }

SUMS(sums_of_32, uint32_t, __builtin_ctz)
SUMS(sums_of_64, uint64_t, __builtin_ctzll)

static void rows_of(const Plan *plan, const Py_buffer *matrix, int32_t *places, double *out)
{
    const Py_ssize_t rows = matrix->shape[0], down = matrix->strides[0], across = matrix->strides[1];
    memset(out, 0, (size_t)rows * plan->outputs * sizeof *out);
    for (Py_ssize_t at = 0; at < rows; at += ROWS) {
        const Py_ssize_t many = rows - at < ROWS ? rows - at : ROWS;
        places_of(plan, (const char *)matrix->buf + at * down, down, across, many, places);
        (plan->word == sizeof(uint32_t) ? sums_of_32 : sums_of_64)(plan, places, many, out + at * plan->outputs);
    }
}

static int refused(const Plan *plan, const Py_buffer *block, const Py_buffer *matrix, const Py_buffer *out)
{
    const char *format = matrix->format + strspn(matrix->format, "@=^");  /* signs of native bytes, aligned or not */
    if (block->len < (Py_ssize_t)sizeof *plan || (uintptr_t)plan % LINE || plan->layout != LAYOUT || plan->bytes != block->len)
        PyErr_Format(PyExc_ValueError, "not a plan");
    else if (matrix->ndim != 2 || strcmp(format, "d") || matrix->shape[1] < plan->columns)
        PyErr_Format(PyExc_ValueError, "not a matrix of float64 with %lld columns", (long long)plan->columns);
    else if (out->len != matrix->shape[0] * plan->outputs * (Py_ssize_t)sizeof(double))
        PyErr_Format(PyExc_ValueError, "the answer has no room for %zd rows", matrix->shape[0]);
    else
        return 0;
    return 1;
}

static PyObject *scored(const Py_buffer *block, const Py_buffer *matrix, const Py_buffer *out)
{
    const Plan *plan = block->buf;
    int32_t *places;
    if (refused(plan, block, matrix, out))
        return NULL;
    if (!(places = malloc((size_t)(matrix->shape[0] < ROWS ? matrix->shape[0] + 1 : ROWS) * plan->lookups * sizeof *places)))
        return PyErr_NoMemory();
    if (matrix->shape[0] < LONG) {
        rows_of(plan, matrix, places, out->buf);
    } else {
        Py_BEGIN_ALLOW_THREADS
        rows_of(plan, matrix, places, out->buf);
        Py_END_ALLOW_THREADS
    }
    free(places);
    Py_RETURN_NONE;
}

static PyObject *score(PyObject *self, PyObject *arguments)
{
    PyObject *plan, *matrix, *out, *done = NULL;
    Py_buffer block, read, written;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OOO:score", &plan, &matrix, &out))
        return NULL;
    if (!PyObject_GetBuffer(plan, &block, PyBUF_SIMPLE)) {
        if (!PyObject_GetBuffer(matrix, &read, PyBUF_STRIDED_RO | PyBUF_FORMAT)) {
            if (!PyObject_GetBuffer(out, &written, PyBUF_CONTIG)) {
                done = scored(&block, &read, &written);
                PyBuffer_Release(&written);
            }
            PyBuffer_Release(&read);
        }
        PyBuffer_Release(&block);
    }
    return done;
}

static PyMethodDef methods[] = {
    {"score", score, METH_VARARGS, "score(plan, matrix, out): sums of the leaves of float64 rows, written to out (rows, outputs)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "models._quickscorer", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__quickscorer(void)
{
    return PyModuleDef_Init(&module);
}
