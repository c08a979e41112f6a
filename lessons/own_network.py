# %% [markdown]
# # own_network
