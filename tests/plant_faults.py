"""Plants faults into a copy of the package and shows that the tests notice.

    python tests/plant_faults.py [WORD]

With a word, only the faults whose description has it. Each fault is one replacement in one file,
and is given the tests that should fail, on TensorFlow unless another backend stands before them.
Not collected by pytest: it takes some twenty minutes, and says at the end how many faults went
unnoticed (its exit code).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZES = "tf_blocknorm/norms/sizes.py"
EXACT = "tf_blocknorm/norms/exact.py"
RECORDER = "tf_blocknorm/optimizers/recorder.py"
BLOCKS = "tf_blocknorm/blocks.py"
BASE = "tf_blocknorm/optimizers/base.py"
MUON = "tf_blocknorm/optimizers/muon.py"
HOOKS = "tf_blocknorm/optimizers/hooks.py"
PARTITION = "tf_blocknorm/optimizers/partition.py"
ROWS = "tf_blocknorm/optimizers/rows.py"
BLOCKWISE = "tf_blocknorm/optimizers/blockwise.py"
FUSED_STEP = "tf_blocknorm/optimizers/fused.py"
NOVOGRAD = "tf_blocknorm/optimizers/novograd.py"
LARS = "tf_blocknorm/optimizers/lars.py"
LAMB = "tf_blocknorm/optimizers/lamb.py"
TRUST = "tf_blocknorm/optimizers/trust.py"
ADAPTIVE = "tf_blocknorm/optimizers/adaptive.py"
AGREEMENT = "tf_blocknorm/optimizers/agreement.py"
TAPPED = "tf_blocknorm/optimizers/tapped.py"
TAPS = "tf_blocknorm/optimizers/taps.py"
STEP = "tf_blocknorm/callbacks/adaptive_step.py"
INPUT_QUOTIENT = "tf_blocknorm/optimizers/inputs/quotient.py"
QUOTIENT = "tf_blocknorm/callbacks/barzilai_borwein_tap.py"
RULE = "tf_blocknorm/callbacks/learning_rate_rule.py"
MATCHING = "tf_blocknorm/callbacks/back_matching.py"
RECURSION = "tf_blocknorm/back_matching/recursion.py"
RULES = "tf_blocknorm/back_matching/rules.py"
KERNELS = "tf_blocknorm/back_matching/kernels.py"
SEEN = "tf_blocknorm/back_matching/seen.py"
GRAPH = "tf_blocknorm/back_matching/graph.py"
RATES = "tf_blocknorm/callbacks/learning_rate_finder_tap.py"
MEASURE = "tf_blocknorm/callbacks/monitor_tap.py"
FUSED_NORMS = "tf_blocknorm/norms/fused_tensorflow.py"
SECOND_LOOK = "tf_blocknorm/norms/second_look_tensorflow.py"
FUSED = "tf_blocknorm/optimizers/kernels/tensorflow.py"
SHARED = "tf_blocknorm/optimizers/kernels/shared.py"
FACTORS = "tf_blocknorm/optimizers/factors.py"
INSGD = "tf_blocknorm/optimizers/insgd.py"
STATISTICS = "tf_blocknorm/optimizers/statistics.py"
INPUTS = "tf_blocknorm/optimizers/inputs/"
EXPERIMENTS = "tf_blocknorm/experiments/"

# (what is wrong, file, text, replacement, tests)
FAULTS = [
    (
        "fused: stacked norms in the wrong order",
        FUSED_NORMS,
        "return joined if list(places) == list(range(len(places))) else tf.gather(joined, places)",
        "return joined",
        "test_kernels.py -k numpy",
    ),
    (
        "fused: the negative entries do not count",
        FUSED_NORMS,
        "return -tf.reduce_min(x, axis)",
        "return tf.reduce_min(x, axis)",
        "test_kernels.py -k numpy",
    ),
    (
        "fused: the second look's sizes are those of the first",
        EXACT,
        "where(usual, sizes, again)",
        "sizes",
        "test_kernels.py -k second_look",
    ),
    (
        "fused: all tensors of a second look have the factor of their block's number",
        SECOND_LOOK,
        "each = [factor for block, factor in zip(blocks, factors) for _ in block.tensors]",
        "each = factors + [factors[-1]] * (len(tensors) - len(factors))",
        "test_kernels.py -k second_look",
    ),
    (
        "fused: the factor is lost",
        FUSED,
        "(tensor, rate * factor) if",
        "(tensor, rate) if",
        "test_barzilai_borwein.py",
    ),
    (
        "fused: the factors of units are lost",
        FUSED,
        "else (tensor * factor, rate)",
        "else (tensor, rate)",
        "test_parity.py -k unit",
    ),
    (
        "fused: no look ahead",
        FUSED,
        "grad=gradient,\n            momentum=momentum,\n            use_nesterov=nesterov,",
        "grad=gradient,\n            momentum=momentum,",
        "test_parity.py -k nesterov",
    ),
    (
        "fused: Adam corrects both averages alike",
        FUSED,
        '"beta2_power": powers[1]',
        '"beta2_power": powers[0]',
        "test_parity.py -k adam",
    ),
    (
        "fused: LAMB's direction knows no decay",
        FUSED,
        "    if start is None:  # not",
        "    if True:  # not",
        "test_parity.py -k lamb",
    ),
    (
        "fused: LAMB's epsilon beside the uncorrected average",
        SHARED,
        "return epsilon * root, -root / correction_1",
        "return epsilon, -root / correction_1",
        "test_parity.py -k lamb",
    ),
    (
        "fused: the rate is not multiplied in",
        FACTORS,
        "products = self._vector * ops.cast(rate, self._vector.dtype)",
        "products = self._vector",
        "test_parity.py -k sgd",
    ),
    (
        "fused: units of which only the rate is left",
        FACTORS,
        "rest[position] = self.each[position]",
        "pass",
        "test_parity.py -k unit",
    ),
    (
        "fused: an update_step in place of ours is passed over",
        FUSED_STEP,
        'if "update_step" in vars(self) or not self._belong_together:',
        "if False:",
        "test_optimizers.py -k in_place_of_ours",
    ),
    (
        "torch: all rates are the first one's multiple",
        TAPPED,
        "rates = list(map(times, rates, tap.rate_factors(indices)))",
        "rates = [times(rates[0], tap.rate_factors(indices)[0])] * len(indices)",
        "torch test_kernels_torch.py -k back_matching_in_the_call",
    ),
    (
        "a tap passes over an update_step in place of its own",
        TAPPED,
        "if not seen.fused or optimizer.update_step is not tapped.update_step:",
        "if not seen.fused:",
        "test_taps.py -k ones_own",
    ),
    ("l2 is the rms", SIZES, '"l2": l2,', '"l2": rms,', "test_norms.py -k size"),
    (
        "max keeps signs",
        SIZES,
        "return _maximum([ops.abs(x) for x in tensors], axis)",
        "return _maximum(tensors, axis)",
        "test_parity.py -k max",
    ),
    (
        "XLA: the maximum of what is brought into range is that of the gradient",
        EXACT,
        "found = ops.multiply(each(get(norm), blocks), factors)",
        "found = each(get(norm), blocks)",
        "test_norms.py -k xla",
    ),
    (
        "XLA: a sum of eights forgets the rest",
        "tf_blocknorm/norms/modes.py",
        "return functools.reduce(join, rest, reduce(x))",
        "return reduce(x)",
        "test_norms.py -k long_tensors",
    ),
    (
        "XLA: a maximum drops what is not a number",
        "tf_blocknorm/norms/modes.py",
        'x = ops.where(ops.isnan(x), ops.full((), float("inf"), x.dtype), x)',
        "pass",
        "test_norms.py -k broken_entry",
    ),
    (
        "XLA may make one sum of all stages again, and writes all squares",
        "tf_blocknorm/norms/modes.py",
        "(x,) = _barrier(ops.reshape(eights, (-1,)))",
        "x = ops.reshape(eights, (-1,))",
        "test_memory.py -k forty",
    ),
    (
        "XLA computes all steps of LAMB before it measures them",
        EXACT,
        "functools.partial(once_known, looks_left)",
        "list",
        "test_memory.py -k temporary",
    ),
    (
        "fused: nobody waits for a turn",
        FUSED,
        "full = large and",
        "full = False and",
        "test_memory.py -k temporary",
    ),
    (
        "LAMB: all steps at a time",
        SHARED,
        "if filled >= least:",
        "if False:",
        "test_memory.py -k temporary",
    ),
    (
        "LAMB: the ratios of a part in place of all",
        LAMB,
        "names += members",
        "names = list(members)",
        "test_memory.py -k same",
    ),
    (
        "decay leaves out what is large",
        FUSED,
        "value = variable * factor",
        "value = variable * (factor if math.prod(variable.shape) < 2 else 1.0)",
        "test_parity.py -k adamw",
    ),
    (
        "no way back from underflow",
        EXACT,
        "where(sizes < limits.low, limits.up, factors)",
        "factors",
        "test_norms.py -k powers",
    ),
    (
        "no way back from overflow",
        EXACT,
        "where(sizes <= limits.high, ops.ones_like(sizes), limits.down)",
        "ops.ones_like(sizes)",
        "test_norms.py -k powers",
    ),
    (
        "NaNs pass through the maximum",
        EXACT,
        'where(broken, float("nan"), found)',
        "found",
        "jax test_norms.py -k broken",
    ),
    (
        "an infinite norm makes zero steps",
        EXACT,
        'where(ops.isfinite(sizes), inverses, float("nan"))',
        "inverses",
        "test_norms.py -k broken",
    ),
    ("std without its fall-back", SIZES, "_FLAT = 1e-6", "_FLAT = 0.0", "test_norms.py -k std"),
    (
        "epsilon is forgotten",
        EXACT,
        "if epsilon else sizes",
        "if False else sizes",
        "test_parity.py -k epsilon",
    ),
    (
        "regex pairs: last match first",
        BLOCKS,
        "for regex, n in block if",
        "for regex, n in block[::-1] if",
        "test_blocks.py",
    ),
    (
        "patterns without a match pass",
        BLOCKS,
        "if not any(re.search",
        "if False and any(re.search",
        "test_blocks.py",
    ),
    (
        "the layer of a variable is its path",
        BLOCKS,
        'path(v).rpartition("/")[0] or p',
        "p",
        "test_parity.py -k layer",
    ),
    (
        "units are not told apart",
        PARTITION,
        "return self._by_unit and",
        "return False and",
        "test_parity.py -k unit",
    ),
    (
        "excluded variables are normalised",
        PARTITION,
        "None if skip or 0 in v.shape",
        "None if 0 in v.shape",
        "test_parity.py -k exclude",
    ),
    (
        "the floor of the weights' norm is lost",
        BASE,
        "ops.maximum(sizes, floors)",
        "sizes",
        "test_parity.py -k scale",
    ),
    (
        "updates step by 1, not by the rate",
        BASE,
        "self._move_all(variables, directions, learning_rate, factors)",
        "self._move_all(variables, directions, 1.0, factors)",
        "test_parity.py -k update",
    ),
    (
        "Nesterov's sign",
        RECORDER,
        "captured.append(ops.negative(value))",
        "captured.append(value)",
        "test_parity.py -k update",
    ),
    (
        "noise in every step",
        BASE,
        "self.iterations + 1, self.noise_every",
        "self.iterations + 1, 1",
        "test_parity.py -k saddle",
    ),
    (
        "noise one step late",
        BASE,
        "ops.mod(self.iterations + 1,",
        "ops.mod(self.iterations,",
        "test_parity.py -k saddle",
    ),
    (
        "decay where it is excluded",
        BLOCKWISE,
        "self._decays = tuple(not n for n in no_decay)",
        "self._decays = tuple(True for n in no_decay)",
        "test_parity.py -k decay",
    ),
    (
        "decay exclusions are not saved",
        BLOCKWISE,
        '"exclude_from_weight_decay": list(self._no_decay),',
        "",
        "test_saving.py -k exclusions",
    ),
    (
        "the norm is not saved",
        BLOCKWISE,
        '"norm": saving.serialize(self.norm),',
        "",
        "test_optimizers.py -k config",
    ),
    (
        "normalised before the sum over replicas",
        HOOKS,
        "            grads_and_vars = super()._all_reduce_sum_gradients(grads_and_vars)",
        "            grads, variables = zip(*grads_and_vars)\n"
        "            grads = self.on_gradients(grads, variables)\n"
        "            pairs = list(zip(grads, variables))\n"
        "            grads_and_vars = super()._all_reduce_sum_gradients(pairs)",
        "test_distribution.py -k mirrored_strategy_equals",
    ),
    (
        "Muon: matrices and the rest decay alike",
        HOOKS,
        " and self._decays_as_all_do()",
        "",
        "test_optimizers.py -k muon_decays",
    ),
    (
        "Muon: without a decay of matrices nothing decays",
        HOOKS,
        " or not self._decays_as_all_do()",
        "",
        "jax test_optimizers.py -k muon_decays",
    ),
    (
        "Muon: what the rule sees is not normalised",
        BASE,
        "return self._leave_factors(*self._unit(gradients, variables), variables)",
        "return gradients",
        "test_parity.py -k muon",
    ),
    (
        "Muon: kernels are flattened from the other end",
        MUON,
        "ops.reshape(x, (-1, x.shape[-1]))",
        "ops.reshape(x, (x.shape[0], -1))",
        "test_parity.py -k muon-flatten",
    ),
    (
        "Muon: flattened kernels are taken to be as large as their first two axes",
        MUON,
        "_of_matrix(super().lr_adjust, x)",
        "super().lr_adjust(x)",
        "test_parity.py -k muon-flatten",
    ),
    (
        "clipped before the sum over replicas",
        HOOKS,
        "        return grads\n\n    def _all_reduce",
        "        return super()._clip_gradients(grads)\n\n    def _all_reduce",
        "test_distribution.py -k clip",
    ),
    (
        "sparse gradients of other rules are not dense",
        HOOKS,
        "gradient = tf.convert_to_tensor(gradient)",
        "pass",
        "test_sparse.py -k equals_dense",
    ),
    (
        "rows that were looked up twice are told apart by neighbours that are not sorted",
        ROWS,
        "order = tf.argsort(indices)",
        "order = tf.range(tf.size(indices))",
        "test_sparse.py -k equals_dense",
    ),
    (
        "rows are not summed",
        ROWS,
        "values = tf.math.unsorted_segment_sum(values, places, number)",
        "values = tf.math.unsorted_segment_max(values, places, number)",
        "test_sparse.py -k equals_dense",
    ),
    (
        "the mean of rows is taken over those that were looked up",
        PARTITION,
        "if rows.any_sparse(members):",
        "if False:",
        "test_sparse.py -k equals_dense",
    ),
    (
        "a momentum forgets rows that were not looked up",
        BASE,
        "and not (self.momentum or self.noise",
        "and not (self.noise",
        "test_sparse.py -k equals_dense",
    ),
    (
        "every gradient of rows becomes dense",
        HOOKS,
        "helps = rows.is_sparse(gradient) and",
        "helps = False and",
        "test_sparse.py -k what_moves_rows",
    ),
    (
        "gradients keep to themselves what shape they have",
        HOOKS,
        "        gradient.set_shape(variable.shape)\n",
        "",
        "test_sparse.py -k open_size",
    ),
    (
        "other noise on every replica",
        BASE,
        "if self.noise and noises is None:",
        "if self.noise:",
        "test_distribution.py -k noise",
    ),
    (
        "noise differs under XLA",
        HOOKS,
        "counter=[tf.zeros_like(draw), draw],",
        "counter=[draw, tf.zeros_like(draw)],",
        "test_parity.py -k noise",
    ),
    (
        "rates change before the step",
        ADAPTIVE,
        """        super().on_updates(visits, learning_rate)
        if visits:""",
        """        if visits:""",
        "test_parity.py -k adaptive",
    ),
    (
        "momenta rise with agreement",
        ADAPTIVE,
        "self._momenta - update * cosines",
        "self._momenta + update * cosines",
        "test_parity.py -k adaptive",
    ),
    (
        "the target has the wrong sign",
        ADAPTIVE,
        "(cosines - self.target_correlation)",
        "(cosines + self.target_correlation)",
        "test_parity.py -k adaptive",
    ),
    (
        "the average forgets everything",
        AGREEMENT,
        "decay * cast(",
        "0.0 * cast(",
        "test_parity.py -k adaptive",
    ),
    (
        "fused: the average forgets too little",
        FUSED,
        "value += kept * slot",
        "value += slot",
        "test_parity.py -k adaptive",
    ),
    (
        "the length of the average forgets the angle",
        AGREEMENT,
        "(2.0 * decay * products + (1.0 - decay))",
        "(1.0 - decay)",
        "test_parity.py -k adaptive",
    ),
    (
        "all blocks count alike",
        AGREEMENT,
        "ops.convert_to_tensor(partition.counts), 0.0)",
        "ops.ones_like(cosines), 0.0)",
        "test_adaptive.py -k reference",
    ),
    (
        "the cosine is taken before the average",
        AGREEMENT,
        "products / where(known, lengths, 1.0)",
        "products",
        "test_adaptive_step.py -k reference",
    ),
    (
        "a tap sees normalised gradients",
        TAPPED,
        "seen.gradients = list(gradients)",
        "seen.gradients = list(on_gradients(gradients, variables))",
        "test_taps.py -k raw",
    ),
    (
        "fused: any rule with rates for its variables is carried out as SGD",
        TAPPED,
        'getattr(optimizer.update_step, "__func__", None) is keras.optimizers.SGD.update_step',
        "True",
        "test_kernels.py -k made_of",
    ),
    (
        "another's change does not move the bound",
        STEP,
        "o.max_learning_rate * bound_factor",
        "o.max_learning_rate * 1.0",
        "test_adaptive_step.py -k bound",
    ),
    (
        "a tap's state is not restored",
        TAPS,
        "variable.assign(store[str(index)])",
        "pass",
        "test_taps.py -k loads",
    ),
    (
        "the quotient forgets how many steps a period has",
        QUOTIENT,
        "1.0 / (curvature * self.updates)",
        "1.0 / curvature",
        "test_barzilai_borwein.py -k reference",
    ),
    (
        "the finder's rates fall too fast",
        RATES,
        "ops.subtract(1.0, passed)",
        "ops.square(ops.subtract(1.0, passed))",
        "test_learning_rate_finder.py",
    ),
    (
        "the finder takes the lowest loss",
        RULE,
        "FRACTION = 2 / 3",
        "FRACTION = 1.0",
        "test_learning_rate_finder.py",
    ),
    (
        "the monitor shows weights after the step",
        MEASURE,
        "tensors = (gradients, old, updates)",
        "tensors = (gradients, new, updates)",
        "test_monitor.py",
    ),
    (
        "running norms begin at zero",
        NOVOGRAD,
        "where(old == 0, size, new)",
        "new",
        "test_layerwise.py -k late",
    ),
    (
        "running norms of blocks without a gradient fall",
        NOVOGRAD,
        "self._partition.where(members, new, old)",
        "new",
        "test_layerwise.py -k absent",
    ),
    (
        "the running norm is an average of norms, not of squares",
        NOVOGRAD,
        "self.beta_2**0.5 * old, (1.0 - self.beta_2) ** 0.5 * size",
        "self.beta_2 * old, (1.0 - self.beta_2) * size",
        "test_parity.py -k novograd",
    ),
    (
        "the highest norm is forgotten",
        NOVOGRAD,
        "self._scratch.norms.append((self._highest, divisor))",
        "pass",
        "test_layerwise.py -k golden",
    ),
    (
        "the first step is averaged, too",
        NOVOGRAD,
        "ops.where(ops.equal(self.iterations, 0), first, share)",
        "share",
        "test_layerwise.py -k addons",
    ),
    (
        "torch: a momentum that takes the update twice takes it undecayed",
        "tf_blocknorm/optimizers/kernels/torch.py",
        "        if decays:\n            gradients =",
        "        if False:\n            gradients =",
        "torch test_kernels_torch.py -k momentum",
    ),
    (
        "torch: one rate for all",
        "tf_blocknorm/optimizers/kernels/torch.py",
        "len({*map(id, rates)}) > 1 or ",
        "",
        "torch test_kernels_torch.py -k rates",
    ),
    (
        "torch: stateless_apply writes into what it is given",
        "tf_blocknorm/optimizers/kernels/__init__.py",
        "FUSED is not None and not in_stateless_scope()",
        "FUSED is not None",
        "torch test_kernels_torch.py -k stateless",
    ),
    (
        "Keras decays the weights as well",
        HOOKS,
        "if self.decay_is_inside:",
        "if False:",
        "test_parity.py -k lamb",
    ),
    (
        "LARS: decay is not in the norm",
        LARS,
        "self.epsilon + decay * weight",
        "self.epsilon",
        "test_parity.py -k lars",
    ),
    (
        "LARC does not bound",
        LARS,
        "ops.minimum(length / positive, size)",
        "length / positive",
        "test_parity.py -k larc",
    ),
    (
        "LARS: the decay is not scaled",
        LARS,
        "shares = self._spread(ratios, gradients, members.values())",
        "shares = None",
        "test_parity.py -k lars",
    ),
    (
        "LAMB: the lower end of the clip is lost",
        LAMB,
        "ops.clip(wanted, low * size, high * size)",
        "ops.minimum(wanted, high * size)",
        "test_parity.py -k clipped",
    ),
    (
        "LAMB: blocks of zeros stay where they are",
        LAMB,
        "return where(here, wanted, size)",
        "return wanted",
        "test_parity.py -k lamb",
    ),
    (
        "LAMB: no bias correction",
        LAMB,
        "-ops.expm1(t * math.log(beta)) if beta else ops.ones_like(t)",
        "ops.ones_like(t)",
        "test_parity.py -k lamb",
    ),
    (
        "trust ratios of absent blocks are lost",
        TRUST,
        "self._partition.where(members, new, ops.cast(self._ratios, new.dtype))",
        "new",
        "test_layerwise.py -k absent",
    ),
    (
        "scalars alone are vectors",
        BLOCKS,
        "len(v.shape) <= 1",
        "len(v.shape) < 1",
        "test_layerwise.py -k vectors",
    ),
    (
        "the mean over units is a sum",
        BLOCKWISE,
        "share /= np.maximum(share.sum(axis=1, keepdims=True), 1.0)",
        "pass",
        "test_layerwise.py -k monitor",
    ),
    (
        "back-matching: what several layers want does not add up",
        RECURSION,
        "factors[tensor] = factors.get(tensor, 0.0) + m * factor",
        "factors[tensor] = m * factor",
        "test_back_matching_graph.py -k fan_out",
    ),
    (
        "back-matching: a shared layer counts once",
        RECURSION,
        "found.get(id(variable), 0.0) + m * factor",
        "m * factor",
        "test_back_matching_graph.py -k shared",
    ),
    (
        "back-matching: a bias counts as much as a kernel",
        RECURSION,
        "counts = [math.prod(variable.shape) for variable, _ in curvatures]",
        "counts = [1 for _ in curvatures]",
        "test_back_matching_graph.py -k geometric",
    ),
    (
        "back-matching: the columns where the non-zero eigenvalues are asked for",
        SEEN,
        'min(inputs, outputs) if self.options.rank == "min" else inputs',
        "inputs",
        "test_back_matching_layers.py -k dense-min",
    ),
    (
        "back-matching: padding is seen",
        KERNELS,
        "counts = ops.sum(ops.reshape(seen_by, (-1, taps)), axis=0)",
        "counts = ops.ones((taps,)) * math.prod(seen_by.shape[1:-1])",
        "test_back_matching_layers.py -k explicit",
    ),
    (
        "back-matching: a bias sees one position",
        KERNELS,
        "(layer.bias, slope * math.prod(seen_by.shape[1:-1]))",
        "(layer.bias, slope)",
        "test_back_matching_layers.py -k biases",
    ),
    (
        "back-matching: slopes are not squared",
        SEEN,
        "number(ops.mean(ops.square(slopes)))",
        "number(ops.mean(ops.abs(slopes)))",
        "test_back_matching_layers.py -k activations",
    ),
    (
        "back-matching: the activation is not that of the layer below it",
        KERNELS,
        "[(layer.kernel, slope * energy)]\n    if layer.use_bias:\n"
        "        variables.append((layer.bias, slope * positions))",
        "[(layer.kernel, energy)]\n    if layer.use_bias:\n"
        "        variables.append((layer.bias, slope * positions))",
        "test_back_matching.py -k reference",
    ),
    (
        "back-matching: gamma is not squared",
        RULES,
        "ops.square(precise(layer.gamma))",
        "ops.abs(precise(layer.gamma))",
        "test_back_matching_layers.py -k normalization",
    ),
    (
        "back-matching: the moving averages make the outputs",
        RECURSION,
        "if type(use.layer) in IN_TRAINING and",
        "if False and",
        "test_back_matching_layers.py -k normalization",
    ),
    (
        "back-matching: frozen batch normalisation uses the batch",
        RULES,
        "seen.inputs is not None and layer.trainable",
        "seen.inputs is not None",
        "test_back_matching_layers.py -k moving_variance",
    ),
    (
        "back-matching: dropout is on",
        GRAPH,
        '"training": False}',
        '"training": True}',
        "test_back_matching_layers.py -k dropped",
    ),
    (
        "back-matching: a refresh comes one update late",
        MATCHING,
        "if done >= int(",
        "if done > int(",
        "test_back_matching.py -k reference",
    ),
    (
        "back-matching: multipliers are computed once",
        MATCHING,
        "done + self.update_freq if self.update_freq else _NEVER_AGAIN",
        "_NEVER_AGAIN",
        "test_back_matching.py -k reference",
    ),
    (
        "back-matching: bounds before the mean",
        RECURSION,
        "min(max(scale / c, low), high)",
        "scale * min(max(1.0 / c, low), high)",
        "test_back_matching_graph.py -k bounds",
    ),
    (
        "rates never come to rest",
        ADAPTIVE,
        "speed = ops.maximum(0.0, 1.0 -",
        "speed = ops.maximum(1.0, 1.0 -",
        "test_parity.py -k adaptive-momentum",
    ),
    (
        "the loss is asked first, always",
        RULE,
        "rules.pop(signal)",
        'rules.pop("loss")',
        "test_learning_rate_finder.py -k asked",
    ),
    (
        "experiments: rates from a sweep of another network",
        EXPERIMENTS + "commands.py",
        'runs = [run for run in runs if run["options"] == session.options]',
        "pass",
        "test_cli.py -k sweep",
    ),
    (
        "experiments: a series compares worst rates",
        EXPERIMENTS + "tables.py",
        'values = [metric.of(s) for s in part if s["learning_rate"] == rate]',
        "values = [metric.of(s) for s in part][:1]",
        "test_report.py -k option",
    ),
    (
        "statistics of micro-batches: their maximum",
        STATISTICS,
        "total = ops.add(so_far, gradient)",
        "total = ops.maximum(so_far, gradient)",
        "test_insgd.py -k accumulated",
    ),
    (
        "the average of powers begins at zero",
        INSGD,
        "ops.where(average < 0, power, mixed)",
        "ops.where(average < 0, (1.0 - self.input_momentum) * power, mixed)",
        "test_insgd.py -k fit",
    ),
    (
        "an infinite power makes zero steps",
        INPUT_QUOTIENT,
        'ops.where(ops.isfinite(power), result, float("nan"))',
        "result",
        "test_insgd.py -k finite",
    ),
    (
        "the gain is forgotten",
        INPUT_QUOTIENT,
        "result = gain / ops",
        "result = 1.0 / ops",
        "test_insgd.py -k authors",
    ),
    (
        "decay and momentum outside of the division",
        INSGD,
        'on_gradient = multiplier if self.normalize == "gradient"',
        'on_gradient = multiplier if self.normalize != "gradient"',
        "test_insgd.py -k 2023",
    ),
    (
        "groups have each other's powers",
        INPUTS + "geometry.py",
        "ops.repeat(by_group, layer.filters // groups, axis=1)",
        "ops.tile(by_group, (1, layer.filters // groups))",
        "test_insgd.py -k fit",
    ),
    (
        "letters stand as the input has them",
        INPUTS + "geometry.py",
        "ops.transpose(ops.reshape(values, sizes), order)",
        "values",
        "test_inputs.py -k shared_letter",
    ),
    (
        "the deviation is the biased one",
        INPUTS + "measures.py",
        "ops.maximum(count - 1.0, 1.0)",
        "count",
        "test_insgd.py -k authors",
    ),
    (
        "dense layers without the offset of the code",
        INPUTS + "measures.py",
        "and geometry.offset:",
        "and False:",
        "test_insgd.py -k authors",
    ),
    (
        "the sum in place of the mean over calls and steps",
        INPUTS + "tap.py",
        "ops.divide(sums[:-1], sums[-1])",
        "sums[:-1]",
        "test_insgd.py -k fit",
    ),
    (
        "a recurrent kernel is divided by the input's power",
        INPUTS + "layers.py",
        "self.state_tap(state, of_state)",
        "self.input_tap(state, of_state)",
        "test_inputs.py -k recurrent",
    ),
    (
        "dropout inside a recurrent layer is not seen",
        INPUTS + "tap.py",
        "functools.reduce(ops.multiply, factors, x)",
        "x",
        "test_inputs_inside.py -k dropout",
    ),
    (
        "the recurrent kernel is given the mask of the input",
        INPUTS + "layers.py",
        "self._masks(self.recurrent_dropout, self.get_recurrent_dropout_mask, state)",
        "self._masks(self.recurrent_dropout, self.get_dropout_mask, state)",
        "test_inputs_inside.py -k dropout",
    ),
    (
        "a pointwise kernel is divided by the power of the layer's input",
        INPUTS + "layers.py",
        "self.pointwise_tap(between), self.pointwise_kernel",
        "between + 0.0 * ops.sum(self.pointwise_tap(inputs)), self.pointwise_kernel",
        "test_inputs_inside.py -k separable",
    ),
    (
        "a pointwise kernel's pixels are those before the stride",
        INPUTS + "geometry.py",
        "between = list(layer.compute_output_shape(input_shape))",
        "between = list(input_shape)",
        "test_inputs_inside.py -k constant",
    ),
    (
        "back-matching: the depthwise kernel without what is above it",
        KERNELS,
        "m * above.inputs",
        "m",
        "test_inputs_inside.py -k back_matching",
    ),
    (
        "the fused momentum forgets the multiplier",
        INSGD,
        "rates, factors = list(map(times, rates, multipliers)), [None] * len(indices)",
        "rates, factors = rates, [None] * len(indices)",
        "test_insgd.py -k fit",
    ),
    (
        "fused: the root of the sum of squares",
        FUSED_NORMS,
        "return tf.square(tf.raw_ops",
        "return tf.identity(tf.raw_ops",
        "test_insgd.py -k fit",
    ),
    (
        "by sample, earlier layers get the divided gradient, too",
        INPUTS + "per_sample.py",
        "ops.multiply(ops.stop_gradient(inputs), self._factors(inputs))",
        "ops.multiply(inputs, self._factors(inputs))",
        "test_inputs.py -k nothing_but",
    ),
    (
        "experiments: a schedule of steps falls one update late",
        EXPERIMENTS + "schedules.py",
        "[steps // 2 - 1, steps * 3 // 4 - 1]",
        "[steps // 2, steps * 3 // 4]",
        "test_experiments.py -k a_schedule_of_steps",
    ),
    (
        "experiments: a part of the data is its beginning",
        EXPERIMENTS + "data/base.py",
        "rows = np.random.default_rng(0).permutation(len(self.x_train))[:count]",
        "rows = np.arange(count)",
        "test_experiments.py -k a_run_on_a_part",
    ),
    (
        "experiments: the schedule given is not that of the run",
        EXPERIMENTS + "commands.py",
        'SCHEDULES[arguments.schedule or "linear"]',
        'SCHEDULES["linear"]',
        "test_cli.py -k on_part_of_the_data",
    ),
    (
        "experiments: a text's targets are its inputs",
        EXPERIMENTS + "data/text.py",
        "characters[1 : used + 1]",
        "characters[:used]",
        "test_text.py -k windows",
    ),
    (
        "experiments: rates are chosen on the test part of a text",
        EXPERIMENTS + "data/base.py",
        "x_test=self.x_validation, y_test=self.y_validation",
        "x_test=self.x_test, y_test=self.y_test",
        "test_text.py -k windows",
    ),
    (
        "experiments: nats for bits",
        EXPERIMENTS + "problems/metrics.py",
        "return nats / math.log(2.0)",
        "return nats",
        "test_text.py -k bits",
    ),
    (
        "experiments: the most bits are the best",
        EXPERIMENTS + "problems/metrics.py",
        "return value if self.higher else -value",
        "return value",
        "test_text.py -k best",
    ),
    (
        "experiments: what diverged counts as zero",
        EXPERIMENTS + "problems/metrics.py",
        "return -math.inf",
        "return 0.0",
        "test_text.py -k best",
    ),
    (
        "experiments: one shift for all images of a batch",
        EXPERIMENTS + "problems/augmentation.py",
        "(2, count, 1)",
        "(2, 1, 1)",
        "test_resnet.py -k shifted",
    ),
    (
        "experiments: images are shifted when they are evaluated",
        EXPERIMENTS + "problems/augmentation.py",
        "if not training:",
        "if False:",
        "test_resnet.py -k training_alone",
    ),
    (
        "experiments: one place is never drawn",
        EXPERIMENTS + "problems/augmentation.py",
        "2 * self.pixels + 1,",
        "2 * self.pixels,",
        "test_resnet.py -k shifted",
    ),
    (
        "experiments: the state of random numbers is not resumed",
        EXPERIMENTS + "runner.py",
        "return [*model.variables,",
        "return [*model.weights,",
        "test_resnet.py -k killed",
    ),
    (
        "experiments: reviews lose their end",
        EXPERIMENTS + "data/reviews.py",
        "[:, -length:]",
        "[:, :length]",
        "test_sentiment.py -k test_npz",
    ),
    (
        "experiments: rare words become padding",
        EXPERIMENTS + "data/reviews.py",
        "UNKNOWN = 2",
        "UNKNOWN = 0",
        "test_sentiment.py -k imdb",
    ),
    (
        "experiments: figures have seven methods at most",
        EXPERIMENTS + "panels.py",
        "MANY = 6",
        "MANY = 99",
        "test_figures.py -k left_out",
    ),
    (
        "experiments: a report does not escape commands",
        EXPERIMENTS + "report.py",
        'autoescape=".html" in template',
        "autoescape=False",
        "test_report.py -k says",
    ),
]


def main():
    word = " ".join(sys.argv[1:])
    chosen, unnoticed = [fault for fault in FAULTS if word in fault[0]], []
    for number, (what, file, text, replacement, tests) in enumerate(chosen, start=1):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)
            for name in ("tf_blocknorm", "tests", "benchmarks", "pyproject.toml"):
                source = ROOT / name
                (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
            original = (copy / file).read_text()
            if original.count(text) != 1:
                sys.exit(f"fault {number} ({what}): {original.count(text)} places for it in {file}")
            (copy / file).write_text(original.replace(text, replacement))
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
            first, *rest = words = tests.split()
            backend = "tensorflow"
            if first in ("jax", "torch"):
                backend, first, *rest = words
            environment = {**os.environ, "PYTHONPATH": str(copy), "KERAS_BACKEND": backend}
            done = subprocess.run(
                [*command, f"tests/{first}", *rest],
                cwd=copy,
                env=environment,
                capture_output=True,
                text=True,
            )
            noticed = done.returncode == 1 and " failed" in done.stdout
            print(f"{number:2} {'noticed  ' if noticed else 'UNNOTICED'} {what}", flush=True)
            if not noticed:
                unnoticed.append(what)
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults noticed")
    return len(unnoticed)


if __name__ == "__main__":
    sys.exit(main())
