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
        binding.hold();
        return args;
    }

    /** A plan. */
    static final class Planned extends CudaPlan implements GatePlan<DeviceTensor> {
        private final GateSpec spec;

        Planned(
                final CudaKernels kernels,
                final GateSpec spec,
                final MemorySegment handle,
                final Lifetime.Lease lease) {
            super(kernels, spec, handle, lease);
            this.spec = spec;
        }

        @Override
        public GateSpec spec() {
            return spec;
        }

        @Override
        public GateLaunch<DeviceTensor> bind(final GateOperands<DeviceTensor> operands) {
            RoutingOperands.check(spec, operands);
            return CudaLaunch.bind(
                    this,
                    spec.operation(),
                    (plan, device, binding, call) -> hopper4j_h.h4j_moe_gate_bind(
                            plan, device, args(operands, binding, call), call.output(), call.error()),
                    (lease, handle, binding) -> new Bound(this, lease, handle, binding));
        }
    }

    /** A launch. */
    private static final class Bound extends CudaLaunch implements GateLaunch<DeviceTensor> {
        private final GateSpec spec;

        Bound(final Planned plan, final Lifetime.Lease lease, final MemorySegment handle, final Binding binding) {
            super(plan, plan.spec().operation(), plan.spec().maxTokens(), lease, handle, binding);
            this.spec = plan.spec();
        }

        @Override
        public void rebind(final GateOperands<DeviceTensor> operands) {
            RoutingOperands.check(spec, operands);
            rebind((launch, binding, call) ->
                    hopper4j_h.h4j_moe_gate_rebind(launch, args(operands, binding, call), call.error()));
        }
    }
}
