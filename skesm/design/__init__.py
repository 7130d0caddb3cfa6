"""The next round: variants to make and measure, chosen by a fitted pipeline."""

from skesm.design._candidates import Variants, combine_mutations, single_variants
from skesm.design._propose import ProposalPlan, plan_proposal, propose
from skesm.design._rounds import simulate_rounds

__all__ = [
    "ProposalPlan",
    "Variants",
    "combine_mutations",
    "plan_proposal",
    "propose",
    "simulate_rounds",
    "single_variants",
]
