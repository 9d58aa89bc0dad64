/**
 * Loads `@supabase/lite`, the REST and Auth API, quietly: on Node 20 the supabase-js inside warns about its age on
 * import, which says nothing to whoever runs the stack.
 */
export async function loadLite() {
  const { warn } = console;
  console.warn = (...message) => {
    if (!String(message[0]).includes("Node.js 20 and below are deprecated")) warn(...message);
  };
  try {
    const [lite, postgres] = await Promise.all([
      import("@supabase/lite"),
      import("@supabase/lite/postgres"),
    ]);
    return { ...lite, ...postgres };
  } finally {
    console.warn = warn;
  }
}
