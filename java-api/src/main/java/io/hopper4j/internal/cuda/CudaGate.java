package io.hopper4j.internal.cuda;

import io.hopper4j.DeviceTensor;
import io.hopper4j.bindings.h4j_moe_gate_args;
import io.hopper4j.bindings.h4j_moe_gate_spec;
import io.hopper4j.bindings.hopper4j_h;
import io.hopper4j.internal.Operands;
import io.hopper4j.internal.RoutingOperands;
import io.hopper4j.moe.GateLaunch;
import io.hopper4j.moe.GateOperands;
import io.hopper4j.moe.GatePlan;
import io.hopper4j.moe.GateSpec;
import java.lang.foreign.MemorySegment;

/** The gate in the terms of the C ABI. */
final class CudaGate {
    private CudaGate() {}

    /** Plans in native code: writes the handle of the plan to the call's output and answers the status. */
    static int plan(final MemorySegment device, final GateSpec spec, final Call call) {
        final MemorySegment s = call.arena().allocate(h4j_moe_gate_spec.layout());
        h4j_moe_gate_spec.struct_size(s, (int) h4j_moe_gate_spec.sizeof());
        h4j_moe_gate_spec.logits_dtype(s, spec.logitsDType().code());
        h4j_moe_gate_spec.scores(s, spec.scores().code());
        h4j_moe_gate_spec.experts(s, spec.experts());
        h4j_moe_gate_spec.groups(s, spec.groups());
        h4j_moe_gate_spec.kept_groups(s, spec.keptGroups());
        h4j_moe_gate_spec.top_k(s, spec.topK());
        h4j_moe_gate_spec.normalize(s, spec.normalize() ? 1 : 0);
        h4j_moe_gate_spec.add_counts(s, spec.addCounts() ? 1 : 0);
        h4j_moe_gate_spec.sm_budget(s, spec.smBudget());
        h4j_moe_gate_spec.scale(s, spec.scale());
        h4j_moe_gate_spec.max_tokens(s, spec.maxTokens());
        return hopper4j_h.h4j_moe_gate_plan(device, s, call.output(), call.error());
    }

    private static MemorySegment args(final GateOperands<DeviceTensor> x, final Binding binding, final Call call) {
        final MemorySegment args = call.arena().allocate(h4j_moe_gate_args.layout());
        h4j_moe_gate_args.struct_size(args, (int) h4j_moe_gate_args.sizeof());
        h4j_moe_gate_args.logits(
                args, binding.address("logits", x.logits(), x.logits().dtype().size()));
        h4j_moe_gate_args.logits_ld(args, Operands.rowStride(x.logits().spec(), 1));
        h4j_moe_gate_args.bias(args, binding.address("bias", x.bias(), Float.BYTES));
        h4j_moe_gate_args.disabled(args, binding.address("disabled", x.disabled(), 1));
        h4j_moe_gate_args.ids(args, binding.address("ids", x.ids(), Integer.BYTES));
        h4j_moe_gate_args.weights(args, binding.address("weights", x.weights(), Float.BYTES));
        h4j_moe_gate_args.counts(args, binding.address("counts", x.counts(), Integer.BYTES));
        return args;
    }

    static final class Planned extends CudaPlan<GateSpec> implements GatePlan<DeviceTensor> {
        Planned(final GateSpec spec, final NativePlan made) {
            super(spec, made);
        }

        @Override
        public GateLaunch<DeviceTensor> bind(final GateOperands<DeviceTensor> operands) {
            RoutingOperands.check(spec(), operands);
            return CudaLaunch.bind(
                    this,
                    spec().operation(),
                    hopper4j_h::h4j_moe_gate_bind,
                    (binding, call) -> args(operands, binding, call),
                    Bound::new);
        }

        private final class Bound extends CudaLaunch implements GateLaunch<DeviceTensor> {
            Bound(final NativeLaunch made) {
                super(Planned.this, spec().operation(), spec().maxTokens(), made);
            }

            @Override
            public void rebind(final GateOperands<DeviceTensor> operands) {
                RoutingOperands.check(spec(), operands);
                rebind(hopper4j_h::h4j_moe_gate_rebind, (binding, call) -> args(operands, binding, call));
            }
        }
    }
}
