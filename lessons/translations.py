# %% [markdown]
# # translations
