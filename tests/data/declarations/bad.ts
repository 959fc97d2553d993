// What must not compile: the compiler complains about each line that follows an expectation, and about none less.
// @ts-expect-error a command has a name
_veroq.push([]);
// @ts-expect-error a command is a list
_veroq.push("trackPageview");
// @ts-expect-error no such command
_veroq.push(["tracked", "x"]);
// @ts-expect-error init needs a key
_veroq.push(["init", { consent: "required" }]);
// @ts-expect-error no such option
_veroq.push(["init", { api_key: "k", cookieDomain: "x" }]);
// @ts-expect-error the words of consent
_veroq.push(["init", { api_key: "k", consent: "yes" }]);
// @ts-expect-error track needs a name
_veroq.push(["track"]);
// @ts-expect-error the name comes first
_veroq.push(["track", { sku: "A1" }, "Viewed"]);
// @ts-expect-error data is an object
_veroq.push(["track", "Viewed", "A1"]);
// @ts-expect-error functions do not travel
_veroq.push(["track", "Viewed", { sku: () => "A1" }]);
// @ts-expect-error an id is a string or a number
_veroq.push(["user", { id: true }]);
// @ts-expect-error an id is a string or a number
_veroq.push(["user", { id: { value: 7 } }]);
// @ts-expect-error reidentify needs the new id
_veroq.push(["reidentify"]);
// @ts-expect-error ids, not a user
_veroq.push(["reidentify", { id: "new" }]);
// @ts-expect-error tags are lists
_veroq.push(["tags", { add: "vip" }]);
// @ts-expect-error logout takes nothing
_veroq.push(["logout", "now"]);
// @ts-expect-error granted or denied
_veroq.push(["consent", "maybe"]);
// @ts-expect-error a token is text
_veroq.push(["verify", 7]);
// @ts-expect-error a callback gets (vero, loaded)
_veroq.push(["trackPageview", (vero: string) => vero]);
// @ts-expect-error there is no such method
window.__vero?.track("x");
