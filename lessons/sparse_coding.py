# %% [markdown]
# # sparse_coding
