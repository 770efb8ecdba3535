"""Hybrid worlds: against a token MDP unfolded by hand, against sums written out, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from tokenq.errors import UserError
from tokenq.worlds import draws
from tokenq.worlds.hybrid import hybrid, objective, random_chains, solve
from tokenq.worlds.hybrid_learning import action_logps, episode_logps, fit, preferences
from tokenq.worlds.mdp import NO_STATE, TokenMDP, build
from tokenq.worlds.soft_q import solve as solve_tree


def uniform(states):
    return torch.full((states,), 1 / states, dtype=torch.float64)


def random_world(seed=0, *, gamma=0.3, steps=2, states=3):
    return random_chains(draws.two_words(seed), draws.generator(seed), uniform(states), steps, gamma=gamma)


def unfolded(world):
    """One tree: the words, the noise as the environment's token, every denoising step as a token."""
    words, states = world.words, len(world.noise_logps)
    ends = {int(end): row for row, end in enumerate(world.sequences.ends)}
    places = [(state, None, ()) for state in range(words.n_states)]
    following, rewards, logps = (
        [row.tolist() for row in table] for table in (words.next_states, words.rewards, words.reference_logps)
    )
    width = max(words.vocab_size, states)
    depths, turn = words.depths.tolist(), [False] * words.n_states
    for rows, fill in ((following, NO_STATE), (rewards, 0.0), (logps, -torch.inf)):
        for row in rows:
            row += [fill] * (width - len(row))
    for place, (state, row, path) in enumerate(places):  # grows while it is read
        row = ends.get(state) if row is None else row
        if row is None or len(path) > world.n_steps:
            continue
        turn[place] = not path
        for after in range(states):
            following[place][after] = len(places)
            logps[place][after] = float(
                world.step_logps[row, len(path) - 1, path[-1], after] if path else world.noise_logps[after]
            )
            if len(path) == world.n_steps:
                rewards[place][after] = float(world.rewards[row, after])
            places.append((state, row, (*path, after)))
            following.append([NO_STATE] * width)
            rewards.append([0.0] * width)
            logps.append([-torch.inf] * width)
            depths.append(depths[place] + 1)
            turn.append(False)
    tree = TokenMDP(
        beta=words.beta,
        horizon=max(depths),
        next_states=torch.tensor(following),
        depths=torch.tensor(depths),
        prompts=torch.zeros(len(places), dtype=torch.long),
        environment=torch.tensor(turn),
        rewards=torch.tensor(rewards, dtype=torch.float64),
        reference_logps=torch.tensor(logps, dtype=torch.float64),
    )
    return tree, places


def test_with_one_strength_it_is_one_token_mdp_whose_environment_writes_the_noise():
    world = random_world(gamma=0.7)  # the words' own
    tree, places = unfolded(world)
    exact, ours = solve_tree(tree), solve(world)
    words = world.words.n_states
    inner = world.words.choice
    assert torch.allclose(exact.logps[:words][inner][:, : world.words.vocab_size], ours.words.logps[inner], atol=1e-12)
    assert float(exact.values[0]) == pytest.approx(float(ours.words.values[0]), abs=1e-12)
    for place, (_, row, path) in enumerate(places):
        if path:
            assert float(exact.values[place]) == pytest.approx(
                0.0 if len(path) > world.n_steps else float(ours.values[row, len(path) - 1, path[-1]]), abs=1e-12
            )
            if len(path) <= world.n_steps:
                states = len(world.noise_logps)
                step = ours.step_logps[row, len(path) - 1, path[-1]]
                assert torch.allclose(exact.logps[place, :states], step, atol=1e-12)


def test_two_strengths_by_hand():
    """One word of two, one step, two states, certain noise: V_y = γ log Σ p exp(r/γ), V = β log Σ π exp(V_y/β)."""
    words = build(vocab_size=2, horizon=1, beta=2.0)
    steps = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]], [[[0.25, 0.75], [0.0, 1.0]]]], dtype=torch.float64)
    rewards = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    world = hybrid(words, 0.5, torch.tensor([1.0, 0.0], dtype=torch.float64), steps, rewards)
    found = solve(world)
    first = 0.5 * torch.log(torch.tensor(0.5 * torch.e**2 + 0.5)).double()
    second = 0.5 * torch.log(torch.tensor(0.25 + 0.75 * torch.e**4)).double()
    assert torch.allclose(found.noise_values, torch.stack((first, second)), atol=1e-6)
    start = 2 * torch.log(0.5 * torch.exp(first / 2) + 0.5 * torch.exp(second / 2))
    assert float(found.words.values[0]) == pytest.approx(float(start), abs=1e-6)
    assert float(found.step_logps[0, 0, 0, 0].exp()) == pytest.approx(torch.e**2 / (torch.e**2 + 1))
    assert len(world.drawings().path) == 4  # from the second noise nothing begins


def test_the_optimum_is_the_largest_objective_and_its_value():
    world, dice = random_world(), draws.generator(5)
    best = solve(world)
    reached = float(objective(world, best.words.logps, best.step_logps)[0])
    assert reached == pytest.approx(float(best.words.values[0]), abs=1e-12)
    for scale in (0.01, 0.3):
        moved = best.step_logps + scale * draws.normal(tuple(best.step_logps.shape), dice)
        assert float(objective(world, best.words.logps, moved.log_softmax(-1))[0]) < reached


def test_the_objective_is_the_sum_over_episodes():
    """E r − β E log π/π_ref − γ E log p/p_ref, each episode by its probability."""
    world, dice = random_world(), draws.generator(7)
    words = draws.random_policy(world.words, dice)
    steps = draws.normal(tuple(world.step_logps.shape), dice).log_softmax(-1)
    drawings = world.drawings()
    chances = episode_logps(world, drawings, words, steps).exp()
    assert float(chances.sum()) == pytest.approx(1.0)
    actions = action_logps(world, drawings, words, steps).sums()
    actions -= action_logps(world, drawings, world.words.reference_logps, world.step_logps).sums()
    earned = world.rewards[drawings.responses, drawings.path[:, -1]] - world.words.beta * actions
    assert float(objective(world, words, steps)[0]) == pytest.approx(float((chances * earned).sum()), abs=1e-12)


def test_what_no_episode_reaches_counts_nothing_and_is_not_learnt():
    """A third state that neither noise nor step leads to: its reward moves no value, its row stays the reference's."""
    words = draws.two_words(0)
    steps = torch.tensor([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.2, 0.2, 0.6]], dtype=torch.float64)
    steps, noise = steps.expand(9, 1, 3, 3), torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    rewards = draws.normal((9, 3), draws.generator(1))
    worlds = [hybrid(words, 0.3, noise, steps, rewards + extra * torch.eye(3)[2]) for extra in (0.0, 50.0)]
    found = [solve(world) for world in worlds]
    assert float(found[0].words.values[0]) == float(found[1].words.values[0])
    drawings = worlds[1].drawings()
    assert len(drawings.path) == 9 * 2 * 2
    assert int(drawings.path.max()) == 1
    scores = rewards[drawings.responses, drawings.path[:, -1]]
    blocks = preferences(worlds[1], drawings, scores, drawings.path[:, 0])
    _, learnt = fit(worlds[1], drawings, blocks, torch.ones(3, dtype=torch.bool), 20)
    assert torch.equal(learnt[:, 0, 2], worlds[1].step_logps[:, 0, 2])
    assert not torch.isnan(learnt).any()


def test_preferences_are_shares_of_pairs():
    """One group: Σ w = Σ_{i≠j} p_i p_j σ(R_i − R_j) = (1 − Σ p²)/2, whatever the rewards."""
    world = random_world(steps=1, states=2)
    drawings = world.drawings()
    scores = draws.normal((len(drawings.path),), draws.generator(2))
    (block,) = preferences(world, drawings, scores, torch.zeros(len(scores), dtype=torch.long))
    chances = episode_logps(world, drawings, world.words.reference_logps, world.step_logps).exp()
    assert float(block.weights.sum()) == pytest.approx(float(1 - chances.square().sum()) / 2)
    assert float(block.weights[3, 1] / block.weights[1, 3]) == pytest.approx(float((scores[3] - scores[1]).exp()))


@pytest.mark.parametrize(("kept", "moved"), [([1, 1, 0], (True, False)), ([0, 0, 1], (False, True))])
def test_a_model_whose_actions_are_not_seen_stays(kept, moved):
    world = random_world(steps=1, states=2)
    drawings = world.drawings()
    blocks = preferences(world, drawings, world.rewards[drawings.responses, drawings.path[:, -1]], drawings.path[:, 0])
    found = fit(world, drawings, blocks, torch.tensor(kept, dtype=torch.bool), 5)
    before = world.words.reference_logps, world.step_logps
    assert tuple(not torch.allclose(one, other) for one, other in zip(found, before, strict=True)) == moved


STEPS = torch.full((9, 1, 2, 2), 0.5, dtype=torch.float64)
REWARDS = torch.zeros(9, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gamma": 0.0}, "gamma = 0.0: a temperature of 0 or below"),
        ({"gamma": -1.0}, "gamma = -1.0"),
        ({"words": replace(draws.two_words(0), beta=0.0)}, "beta = 0.0"),
        ({"words": draws.stochastic_environment(0)}, "have an environment"),
        ({"steps": torch.eye(2).double().expand(9, 3, 2, 2)}, "eta 0\\): nothing is decided here"),
        ({"steps": STEPS[:8]}, "9 responses and 2 noises"),
        ({"steps": 0.9 * STEPS}, "steps hold 18 rows that are no distribution"),
        ({"noise": torch.tensor([0.5, 0.6]).double()}, "noise hold 1 rows"),
        ({"rewards": REWARDS / 0}, "finite: False"),
        ({"rewards": REWARDS[:, :1]}, "9 responses and 2 pictures"),
    ],
)
def test_what_is_no_world_is_refused(change, says):
    given = {"words": draws.two_words(0), "gamma": 0.3, "noise": uniform(2), "steps": STEPS, "rewards": REWARDS}
    with pytest.raises(UserError, match=says):
        hybrid(**(given | change))


def test_too_many_episodes_are_refused():
    with pytest.raises(UserError, match="9 responses drawn in 7 steps among 5 states are 3,515,625 episodes"):
        random_world(steps=7, states=5).drawings()
